//! What requests need.

use std::collections::HashMap;

use outrider_core::jwt::Audiences;
use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;

use super::provider::union;
use crate::convert::cx::Cx;
use crate::model::{JwtProvider, JwtRequirement};

/// As deep requirements may be within each other.
const DEEPEST: usize = 32;

/// What requirements refer to.
pub(super) struct Requirements<'a> {
    pub(super) cx: &'a Cx,
    pub(super) providers: &'a [JwtProvider],
    pub(super) map: &'a HashMap<String, pb::JwtRequirement>,
}

impl Requirements<'_> {
    /// That of this name.
    pub(super) fn named(&self, path: &Path<'_>, name: &str) -> Option<JwtRequirement> {
        let Some(message) = self.map.get(name) else {
            self.cx.error(path, format!("there is no requirement named {name:?} in requirement_map"));
            return None;
        };
        // What is wrong with it is said where it stands.
        let quiet = Cx::default();
        Requirements { cx: &quiet, ..*self }.requirement(path, message, 0)
    }

    /// The requirement at `path`; `None`, and an error, when it is not usable.
    pub(super) fn requirement(
        &self,
        path: &Path<'_>,
        message: &pb::JwtRequirement,
        depth: usize,
    ) -> Option<JwtRequirement> {
        use pb::jwt_requirement::RequiresType as Kind;
        if depth > DEEPEST {
            self.cx.error(path, format!("requirements may be {DEEPEST} levels deep"));
            return None;
        }
        let pb::JwtRequirement { requires_type } = message;
        let whoever =
            |allow_failed| Some(JwtRequirement::Whoever { locations: union(self.providers), allow_failed });
        match requires_type {
            None => Some(JwtRequirement::Nothing),
            Some(Kind::ProviderName(name)) => {
                let provider = self.provider(&path.field("provider_name"), name)?;
                Some(JwtRequirement::Provider { provider, audiences: None })
            }
            Some(Kind::ProviderAndAudiences(message)) => {
                let pb::ProviderWithAudiences { provider_name, audiences } = message;
                let at = path.field("provider_and_audiences");
                let provider = self.provider(&at.field("provider_name"), provider_name)?;
                let audiences = Audiences::new(audiences.iter().map(String::as_str));
                let audiences = (!audiences.is_empty()).then_some(audiences);
                Some(JwtRequirement::Provider { provider, audiences })
            }
            Some(Kind::RequiresAny(pb::JwtRequirementOrList { requirements })) => {
                self.any(&path.field("requires_any"), requirements, depth)
            }
            Some(Kind::RequiresAll(pb::JwtRequirementAndList { requirements })) => {
                let path = path.field("requires_all");
                self.list(&path, requirements, depth).map(JwtRequirement::All)
            }
            Some(Kind::AllowMissingOrFailed(_)) => whoever(true),
            Some(Kind::AllowMissing(_)) => whoever(false),
            Some(Kind::ExtractOnlyWithoutValidation(_)) => {
                self.cx.refuse(
                    &path.field("extract_only_without_validation"),
                    "claims of tokens that nobody verified are not passed on; verify them, or use allow_missing_or_failed",
                );
                None
            }
        }
    }

    fn any(&self, path: &Path<'_>, messages: &[pb::JwtRequirement], depth: usize) -> Option<JwtRequirement> {
        use pb::jwt_requirement::RequiresType as Kind;
        let has = |wanted: fn(&Kind) -> bool| {
            messages.iter().any(|message| message.requires_type.as_ref().is_some_and(wanted))
        };
        let allow_failed = has(|kind| matches!(kind, Kind::AllowMissingOrFailed(_)));
        let allow_missing = has(|kind| matches!(kind, Kind::AllowMissing(_)));
        let mut of = self.list(path, messages, depth)?;
        let regular = of.iter().any(|one| !matches!(one, JwtRequirement::Whoever { .. }));
        // Envoy: those that ask for nothing say what becomes of the others' failures; by themselves they stand as one.
        of.retain(|one| !matches!(one, JwtRequirement::Whoever { .. }));
        if !regular {
            of.push(JwtRequirement::Whoever { locations: union(self.providers), allow_failed });
        }
        Some(JwtRequirement::Any { of, allow_missing, allow_failed })
    }

    fn list(
        &self,
        path: &Path<'_>,
        messages: &[pb::JwtRequirement],
        depth: usize,
    ) -> Option<Vec<JwtRequirement>> {
        let path = path.field("requirements");
        if messages.len() < 2 {
            self.cx.error(&path, "two requirements or more are needed");
        }
        let all = messages.iter().enumerate();
        let all: Vec<_> =
            all.map(|(i, message)| self.requirement(&path.index(i), message, depth + 1)).collect();
        all.into_iter().collect()
    }

    fn provider(&self, path: &Path<'_>, name: &str) -> Option<usize> {
        let found = self.providers.iter().position(|provider| *provider.name == *name);
        if found.is_none() {
            self.cx.error(path, format!("there is no provider named {name:?} in providers"));
        }
        found
    }
}
