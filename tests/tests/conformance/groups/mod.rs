//! The groups of cases.
#![expect(clippy::too_many_lines, reason = "a group is a table of cases, best read in one piece")]

mod admin;
mod authz;
mod bad_certificates;
mod cel;
mod credentials;
mod failures;
mod filters;
mod forwarding;
mod grpc;
mod h2;
mod hashing;
mod health;
mod injected;
mod internal;
mod jwt;
mod limits;
mod login;
mod logs;
mod mutations;
mod pedantry;
mod places;
mod rbac;
mod replies;
mod responses;
mod retries;
mod rewrites;
mod routing;
mod runtime;
mod scoped;
mod tcp;
mod timeouts;
mod tls;
mod upgrades;

use crate::driver::Group;

/// All groups.
pub(crate) fn all() -> Vec<Group> {
    vec![
        routing::paths(),
        routing::headers(),
        routing::hosts(),
        scoped::scopes(),
        responses::direct(),
        responses::redirects(),
        rewrites::rewrites(),
        rewrites::weighted(),
        mutations::levels(),
        mutations::formats(),
        forwarding::forwarding(),
        forwarding::user_agent(),
        timeouts::timeouts(),
        retries::retries(),
        internal::internal(),
        failures::failures(),
        pedantry::pedantry(),
        pedantry::answers(),
        pedantry::absolute(),
        h2::h2(),
        grpc::grpc(),
        upgrades::upgrades(),
        tls::downstream(),
        tls::upstream(),
        tls::passthrough(),
        bad_certificates::clients(),
        bad_certificates::servers(),
        tcp::tcp(),
        tcp::proxy_protocol(),
        tcp::chains(),
        logs::operators(),
        logs::late_operators(),
        logs::filters(),
        admin::admin(),
        admin::virtual_clusters(),
        replies::replies(),
        places::places(),
        places::mirrors(),
        filters::chains(),
        filters::header_mutation(),
        filters::cors(),
        filters::fault(),
        filters::fault_runtime(),
        filters::grpc_stats(),
        filters::health_check(),
        health::outliers(),
        limits::local(),
        credentials::basic(),
        credentials::keys(),
        injected::generic_secrets(),
        login::sessions(),
        login::returns(),
        jwt::tokens(),
        jwt::ways(),
        jwt::requirements(),
        jwt::remote(),
        authz::grpc(),
        authz::http(),
        rbac::conditions(),
        rbac::actions(),
        rbac::trees(),
        rbac::network(),
        cel::policies(),
        cel::trees(),
        cel::connections(),
        cel::logs(),
        health::first_checks(),
        hashing::hashing(),
        runtime::runtime(),
        runtime::runtime_default(),
        runtime::runtime_logs(),
        runtime::runtime_normalize(),
        runtime::runtime_normalize_not(),
    ]
}
