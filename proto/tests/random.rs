//! Messages of every shape survive the way out to JSON and back, and no text, however broken, brings the reader down.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{cell::RefCell, collections::HashMap, sync::LazyLock};

use outrider_proto::{
    Descriptors, encode, load,
    prost_reflect::{Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value},
    redact, to_json, unknown, validate, walk,
};
use proptest::{prelude::*, test_runner::RngSeed};

static DESCS: LazyLock<Descriptors> = LazyLock::new(Descriptors::load);

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// Messages with which a random walk starts; between them they use most of the API.
const ROOTS: &[&str] = &[
    BOOTSTRAP,
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.listener.v3.Listener",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    "envoy.config.rbac.v3.RBAC",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
];

/// A stream of decisions that steers the construction of a message.
struct Dice<'b>(std::slice::Iter<'b, u8>);

impl Dice<'_> {
    fn roll(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.roll()) * 256 % limit.max(1) + usize::from(self.roll()) % limit.max(1)
    }

    fn wide(&mut self) -> u64 {
        (0..8).fold(0, |value, _| value << 8 | u64::from(self.roll()))
    }
}

fn message(desc: &MessageDescriptor, dice: &mut Dice<'_>, depth: usize) -> DynamicMessage {
    let mut built = DynamicMessage::new(desc.clone());
    match desc.full_name() {
        "google.protobuf.Any" => {
            if depth < 4 {
                let name = ROOTS[dice.below(ROOTS.len()) % ROOTS.len()];
                let inner = message(&DESCS.message(name).unwrap(), dice, depth + 1);
                built.set_field_by_name("type_url", Value::String(format!("type.googleapis.com/{name}")));
                built.set_field_by_name("value", Value::Bytes(encode::canonical(&inner).into()));
            }
        }
        "google.protobuf.Duration" | "google.protobuf.Timestamp" => {
            built.set_field_by_name("seconds", Value::I64((dice.wide() % 200_000_000_000) as i64));
            built.set_field_by_name("nanos", Value::I32((dice.wide() % 1_000_000_000) as i32));
        }
        "google.protobuf.FieldMask" => {}
        // A value without a kind has no JSON.
        "google.protobuf.Value" => built.set_field_by_name("string_value", Value::String(text(dice))),
        _ if depth > 6 => {}
        _ => {
            let fields: Vec<FieldDescriptor> = desc.fields().collect();
            for _ in 0..dice.below(5) {
                if fields.is_empty() {
                    break;
                }
                let field = &fields[dice.below(fields.len()) % fields.len()];
                let value = field_value(field, dice, depth);
                built.set_field(field, value);
            }
        }
    }
    built
}

fn field_value(field: &FieldDescriptor, dice: &mut Dice<'_>, depth: usize) -> Value {
    let kind = field.kind();
    if field.is_map() {
        let Kind::Message(entry) = &kind else { unreachable!() };
        let value_kind = entry.map_entry_value_field().kind();
        let mut map = HashMap::new();
        for _ in 0..=dice.below(2) {
            let key = match entry.map_entry_key_field().kind() {
                Kind::String => MapKey::String(text(dice)),
                Kind::Uint32 => MapKey::U32(dice.wide() as u32),
                Kind::Uint64 => MapKey::U64(dice.wide()),
                Kind::Int32 => MapKey::I32(dice.wide() as i32),
                Kind::Int64 => MapKey::I64(dice.wide() as i64),
                other => panic!("a map key of kind {other:?}"),
            };
            map.insert(key, single(&value_kind, dice, depth));
        }
        return Value::Map(map);
    }
    if field.cardinality() == Cardinality::Repeated {
        return Value::List((0..=dice.below(2)).map(|_| single(&kind, dice, depth)).collect());
    }
    single(&kind, dice, depth)
}

fn single(kind: &Kind, dice: &mut Dice<'_>, depth: usize) -> Value {
    match kind {
        Kind::Double => Value::F64(f64::from(dice.wide() as u32) / 7.0),
        Kind::Float => Value::F32(dice.wide() as u16 as f32 / 7.0),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(dice.wide() as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(dice.wide() as i64),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(dice.wide() as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(dice.wide()),
        Kind::Bool => Value::Bool(dice.roll() % 2 == 1),
        Kind::String => Value::String(text(dice)),
        Kind::Bytes => Value::Bytes((0..dice.below(5)).map(|_| dice.roll()).collect::<Vec<u8>>().into()),
        Kind::Message(desc) => Value::Message(message(desc, dice, depth + 1)),
        Kind::Enum(desc) => {
            let values: Vec<i32> = desc.values().map(|value| value.number()).collect();
            // Now and then a number without a name.
            Value::EnumNumber(if dice.roll() == 7 {
                4711
            } else {
                values[dice.below(values.len()) % values.len()]
            })
        }
    }
}

fn text(dice: &mut Dice<'_>) -> String {
    const TEXTS: &[&str] =
        &["", "a", "yes", "5", "1.5", "null", "~", "a: b", "- x", "\"", "\\", "é\u{1f600}", "\n", "#", "%"];
    TEXTS[dice.below(TEXTS.len()) % TEXTS.len()].to_owned()
}

thread_local!(static WIRE: RefCell<validate::WireChecker> = RefCell::default());

/// What reflection finds in a message: broken rules and unknown fields.
fn closer_look(name: &str, bytes: &[u8]) -> Vec<String> {
    let Ok(message) = DESCS.decode(name, bytes) else { return vec!["malformed".to_owned()] };
    let mut found = unknown::unknown_fields(&DESCS, name, bytes).unwrap();
    found.extend(validate::check(&message, &load::LineMap::default()).iter().map(ToString::to_string));
    found
}

/// The same seeds in every run: a failure on one machine is a failure on all.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(7),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn json_out_and_in_is_the_same_message(root in 0..ROOTS.len(), dice in prop::collection::vec(any::<u8>(), 0..600)) {
        let desc = DESCS.message(ROOTS[root]).unwrap();
        let original = message(&desc, &mut Dice(dice.iter()), 0);
        let json = serde_json::to_string_pretty(&to_json(&DESCS, &original)).unwrap();
        let options = load::ParseOptions::default();
        let loaded = load::parse(&DESCS, &json, "random.json", ROOTS[root], options)
            .unwrap_or_else(|problems| panic!("{problems}\n{json}"));
        prop_assert_eq!(to_json(&DESCS, &loaded.message), to_json(&DESCS, &original));

        let bytes = encode::canonical(&loaded.message);
        prop_assert_eq!(&bytes, &encode::canonical(&original), "same message, same bytes");
        let decoded = DESCS.decode(ROOTS[root], &bytes).unwrap();
        prop_assert_eq!(to_json(&DESCS, &decoded), to_json(&DESCS, &original));

        // None of the other readers may stumble over it either; every path leads to a line.
        for problem in validate::check(&loaded.message, &loaded.lines) {
            prop_assert!(problem.line.is_some(), "{}", problem);
        }
        let mut redacted = loaded.message.clone();
        redact(&DESCS, &mut redacted);
        for path in walk::set_fields(&redacted) {
            prop_assert!(loaded.lines.line(&path).is_some(), "{}", path);
        }
    }

    #[test]
    fn the_walk_over_bytes_finds_what_reflection_finds(root in 0..ROOTS.len(), dice in prop::collection::vec(any::<u8>(), 0..600)) {
        let desc = DESCS.message(ROOTS[root]).unwrap();
        let bytes = encode::canonical(&message(&desc, &mut Dice(dice.iter()), 0));
        let closer = closer_look(ROOTS[root], &bytes);
        WIRE.with_borrow_mut(|wire| {
            prop_assert_eq!(wire.is_clean(ROOTS[root], &bytes), closer.is_empty(), "{:?}", closer);
            Ok(())
        })?;
    }

    #[test]
    fn the_walk_over_damaged_bytes_overlooks_nothing(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        thread_local!(static BYTES: Vec<u8> = {
            let text = include_str!("bootstraps/front-proxy.yaml");
            let options = load::ParseOptions::default();
            encode::canonical(&load::parse(&DESCS, text, "t.yaml", BOOTSTRAP, options).unwrap().message)
        });
        let mut bytes = BYTES.with(Clone::clone);
        for (at, byte) in &edits {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        let clean = WIRE.with_borrow_mut(|wire| wire.is_clean(BOOTSTRAP, &bytes));
        prop_assert!(clean || !edits.is_empty(), "it is right as it stands");
        if clean {
            prop_assert_eq!(closer_look(BOOTSTRAP, &bytes), Vec::<String>::new());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = load::parse_bytes(&DESCS, &bytes, "fuzz.yaml", BOOTSTRAP, load::ParseOptions::default());
        let _ = load::parse_bytes(&DESCS, &bytes, "fuzz.json", BOOTSTRAP, load::ParseOptions::default());
    }

    #[test]
    fn yaml_like_text_is_read_or_refused(pieces in prop::collection::vec(0..PIECES.len(), 0..80)) {
        let text: String = pieces.into_iter().map(|piece| PIECES[piece]).collect();
        let _ = load::parse(&DESCS, &text, "fuzz.yaml", BOOTSTRAP, load::ParseOptions::default());
    }

    #[test]
    fn a_damaged_bootstrap_is_read_or_refused(edits in prop::collection::vec((any::<u16>(), 0..PIECES.len(), 0_usize..9), 1..6)) {
        let mut text: Vec<char> = include_str!("bootstraps/front-proxy.yaml").chars().collect();
        for (at, piece, cut) in edits {
            let at = usize::from(at) % text.len();
            let end = (at + cut).min(text.len());
            text.splice(at..end, PIECES[piece].chars());
        }
        let text: String = text.into_iter().collect();
        if let Ok(loaded) = load::parse(&DESCS, &text, "fuzz.yaml", BOOTSTRAP, load::ParseOptions::default()) {
            let _ = validate::check(&loaded.message, &loaded.lines);
            let _ = walk::set_fields(&loaded.message);
            let _ = to_json(&DESCS, &loaded.message);
        }
    }
}

/// Pieces of YAML out of which nonsense is made.
const PIECES: &[&str] = &[
    "static_resources",
    ":",
    ": ",
    "\n",
    "\n  ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "clusters",
    "name",
    "&a ",
    "*a",
    "<<",
    "\"",
    "'",
    "|\n",
    ">\n",
    "!!str ",
    "? ",
    "---\n",
    "...\n",
    "\t",
    "#",
    "@type",
    "type.googleapis.com/",
    "google.protobuf.Struct",
    "value",
    "xds.type.v3.TypedStruct",
    "type_url",
    "1s",
    "-1",
    "0x",
    "null",
    "~",
    "%YAML 1.2\n",
    "\u{feff}",
    "é",
    "\0",
    "\r\n",
    "envoy.config.cluster.v3.Cluster",
    "node",
    "metadata",
    "1e999",
    "typed_config",
    "\\u",
];
