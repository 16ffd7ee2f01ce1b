//! Messages that Envoy configurations use and the `envoy-types` package does not carry, because no file of
//! Envoy's API imports them. Each is a wire contract of a few fields, declared here rather than as `.proto` text
//! so that the build needs no protobuf compiler.

use prost_reflect::prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

/// The files to add to the set.
pub(crate) fn files() -> Vec<FileDescriptorProto> {
    let strings = ["google/protobuf/struct.proto"];
    let typed_struct = || {
        message(
            "TypedStruct",
            vec![
                field("type_url", 1, Shape::Text),
                field("value", 2, Shape::Message(".google.protobuf.Struct")),
            ],
        )
    };
    let on_match = || field("on_match", 2, Shape::Message(".xds.type.matcher.v3.Matcher.OnMatch"));
    vec![
        identity_agent(),
        file("udpa/type/v1/typed_struct.proto", "udpa.type.v1", &strings, vec![typed_struct()]),
        file("xds/type/v3/typed_struct.proto", "xds.type.v3", &strings, vec![typed_struct()]),
        file(
            "xds/type/matcher/v3/http_inputs.proto",
            "xds.type.matcher.v3",
            &[],
            vec![message("HttpAttributesCelMatchInput", vec![])],
        ),
        file(
            "xds/type/matcher/v3/cel.proto",
            "xds.type.matcher.v3",
            &["xds/type/v3/cel.proto"],
            vec![message(
                "CelMatcher",
                vec![
                    field("expr_match", 1, Shape::Message(".xds.type.v3.CelExpression")),
                    field("description", 2, Shape::Text),
                ],
            )],
        ),
        file(
            "xds/type/matcher/v3/ip.proto",
            "xds.type.matcher.v3",
            &["xds/core/v3/cidr.proto", "xds/type/matcher/v3/matcher.proto"],
            vec![DescriptorProto {
                nested_type: vec![message(
                    "IPRangeMatcher",
                    vec![
                        repeated(field("ranges", 1, Shape::Message(".xds.core.v3.CidrRange"))),
                        on_match(),
                        field("exclusive", 3, Shape::Flag),
                    ],
                )],
                ..message(
                    "IPMatcher",
                    vec![repeated(field(
                        "range_matchers",
                        1,
                        Shape::Message(".xds.type.matcher.v3.IPMatcher.IPRangeMatcher"),
                    ))],
                )
            }],
        ),
        file(
            "xds/type/matcher/v3/domain.proto",
            "xds.type.matcher.v3",
            &["xds/type/matcher/v3/matcher.proto"],
            vec![DescriptorProto {
                nested_type: vec![message(
                    "DomainMatcher",
                    vec![repeated(field("domains", 1, Shape::Text)), on_match()],
                )],
                ..message(
                    "ServerNameMatcher",
                    vec![repeated(field(
                        "domain_matchers",
                        1,
                        Shape::Message(".xds.type.matcher.v3.ServerNameMatcher.DomainMatcher"),
                    ))],
                )
            }],
        ),
    ]
}

/// `outrider.extensions.bootstrap.identity.v1.IdentityAgent`: the Rust type is in `src/own.rs`, with what the fields mean.
fn identity_agent() -> FileDescriptorProto {
    let texts = [
        "address",
        "ca_file",
        "server_name",
        "join_token_file",
        "service_account_token_file",
        "socket_path",
        "state_dir",
    ];
    let mut fields: Vec<_> =
        texts.iter().zip(1..).map(|(name, number)| field(name, number, Shape::Text)).collect();
    fields.push(field("lifetime", 8, Shape::Message(".google.protobuf.Duration")));
    file(
        "outrider/extensions/bootstrap/identity/v1/identity.proto",
        "outrider.extensions.bootstrap.identity.v1",
        &["google/protobuf/duration.proto"],
        vec![message("IdentityAgent", fields)],
    )
}

enum Shape {
    Text,
    Flag,
    Message(&'static str),
}

fn file(name: &str, package: &str, imports: &[&str], messages: Vec<DescriptorProto>) -> FileDescriptorProto {
    FileDescriptorProto {
        name: Some(name.to_owned()),
        package: Some(package.to_owned()),
        dependency: imports.iter().map(|&import| import.to_owned()).collect(),
        message_type: messages,
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    }
}

fn message(name: &str, field: Vec<FieldDescriptorProto>) -> DescriptorProto {
    DescriptorProto { name: Some(name.to_owned()), field, ..DescriptorProto::default() }
}

fn field(name: &str, number: i32, shape: Shape) -> FieldDescriptorProto {
    let (r#type, type_name) = match shape {
        Shape::Text => (Type::String, None),
        Shape::Flag => (Type::Bool, None),
        Shape::Message(name) => (Type::Message, Some(name.to_owned())),
    };
    FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(r#type.into()),
        type_name,
        ..FieldDescriptorProto::default()
    }
}

fn repeated(field: FieldDescriptorProto) -> FieldDescriptorProto {
    FieldDescriptorProto { label: Some(Label::Repeated.into()), ..field }
}
