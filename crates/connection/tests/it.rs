//! Connections as files and promptflow have them. Messages and defaults are those of promptflow 1.18.5, observed.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]

use std::sync::Arc;

use flowcell_connection::{
    Connection, ConnectionError, ConnectionSet, ConnectionType, Connections as _, Fields, HIDDEN,
    MAX_FIELDS, MAX_KEY, MAX_NAME, MAX_VALUE, PlaceholderKey, Placeholders, is_placeholder,
    is_scrubbed,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn read(yaml: &str) -> Result<Connection, ConnectionError> {
    let connection = Fields::from_yaml(yaml)?.connection()?;
    connection.check()?;
    Ok(connection)
}

fn message(yaml: &str) -> String {
    let error = read(yaml).unwrap_err();
    format!("{}: {error}", error.class())
}

fn no_variable(_: &str) -> Option<String> {
    None
}

/// A connection of each type, with everything that must be given.
fn one_of_each() -> Vec<Connection> {
    ConnectionType::ALL
        .into_iter()
        .map(|kind| {
            let rest = match kind {
                ConnectionType::Custom => "configs: {a: https://c.example}\nsecrets: {k: s3cr3t}",
                _ => "api_key: s3cr3t\napi_base: https://b.example/x\nendpoint: https://e.example:8443",
            };
            read(&format!("name: n\ntype: {kind}\n{rest}\n")).unwrap()
        })
        .collect()
}

#[test]
fn every_type_has_promptflows_fields_and_defaults() {
    let shown: Vec<Value> = one_of_each()
        .iter()
        .map(|one| one.document(|field| format!("<{field}>")))
        .collect();
    let pf = "promptflow.connections";
    let vector = "promptflow_vectordb.connections";
    let base = "https://b.example/x";
    let endpoint = "https://e.example:8443";
    let key = "<api_key>";
    let one = |class: &str, module: &str, value: Value| json!({"type": class, "name": "n", "module": module, "value": value, "secret_keys": ["api_key"]});
    let mut expected = vec![
        one(
            "AzureOpenAIConnection",
            pf,
            json!({"api_base": base, "api_type": "azure", "api_version": "2024-02-01", "auth_mode": "key", "api_key": key}),
        ),
        one("OpenAIConnection", pf, json!({"api_key": key})),
        one(
            "ServerlessConnection",
            pf,
            json!({"api_base": base, "api_key": key}),
        ),
        one("SerpConnection", pf, json!({"api_key": key})),
        one(
            "QdrantConnection",
            vector,
            json!({"api_base": base, "api_key": key}),
        ),
        one(
            "WeaviateConnection",
            vector,
            json!({"api_base": base, "api_key": key}),
        ),
        one(
            "CognitiveSearchConnection",
            pf,
            json!({"api_base": base, "api_version": "2023-11-01", "auth_mode": "key", "api_key": key}),
        ),
        one(
            "AzureAIServicesConnection",
            pf,
            json!({"endpoint": endpoint, "auth_mode": "key", "api_key": key}),
        ),
        one(
            "AzureContentSafetyConnection",
            pf,
            json!({"endpoint": endpoint, "api_version": "2023-10-01", "api_type": "Content Safety", "api_key": key}),
        ),
        one(
            "FormRecognizerConnection",
            pf,
            json!({"endpoint": endpoint, "api_version": "2023-07-31", "api_type": "Form Recognizer", "api_key": key}),
        ),
    ];
    expected.push(json!({"type": "CustomConnection", "name": "n", "module": pf, "value": {"a": "https://c.example", "k": "<k>"}, "secret_keys": ["k"]}));
    assert_eq!(shown, expected);
}

#[test]
fn secrets_go_to_the_connections_own_place() {
    let origins: Vec<Vec<String>> = one_of_each()
        .iter()
        .map(|one| one.origins().iter().map(ToString::to_string).collect())
        .collect();
    let base = vec!["https://b.example:443"];
    let endpoint = vec!["https://e.example:8443"];
    assert_eq!(
        origins,
        [
            base.clone(),
            vec!["https://api.openai.com:443"],
            base.clone(),
            vec!["https://serpapi.com:443"],
            base.clone(),
            base.clone(),
            base,
            endpoint.clone(),
            endpoint.clone(),
            endpoint,
            vec!["https://c.example:443"],
        ]
    );
    let own = read("{name: n, type: open_ai, api_key: k, base_url: 'http://127.0.0.1:1/v1'}");
    assert_eq!(own.unwrap().origins()[0].to_string(), "http://127.0.0.1:1");
    let none = read("{name: n, type: open_ai, api_key: k, base_url: _}").unwrap();
    assert_eq!(none.origins()[0].to_string(), "https://api.openai.com:443");
    let many = read(
        "{name: n, type: custom, secrets: {k: v}, configs: {a: 'https://a.example/1', b: 'http://b.example', c: 'https://a.example/2', d: text}}",
    );
    let many: Vec<String> = many
        .unwrap()
        .origins()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(many, ["http://b.example:80", "https://a.example:443"]);
    let nowhere = read("{name: n, type: azure_open_ai, api_key: k, api_base: text}").unwrap();
    assert_eq!(nowhere.origins(), []);
}

#[test]
fn types_have_promptflows_spellings() {
    for kind in ConnectionType::ALL {
        for text in [kind.as_str(), kind.type_name(), kind.class_name()] {
            assert_eq!(ConnectionType::parse(text), Some(kind), "{text}");
        }
    }
    for text in [
        "",
        "AZURE_OPEN_AI",
        "azureopenai",
        "azure-open-ai",
        "custom_strong_type",
        "NotSet",
    ] {
        assert_eq!(ConnectionType::parse(text), None, "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_in_promptflows_words() {
    let load = "UserErrorException: Load connection failed with ";
    for (yaml, expected) in [
        ("name: n", "ValidationException: type is required for connection.".to_owned()),
        ("", "ValidationException: type is required for connection.".to_owned()),
        ("{name: n, type: open_ai}", format!("{load}{{'api_key': ['Missing data for required field.']}}")),
        ("{name: n, type: open_ai, api_key: 5}", format!("{load}{{'api_key': ['Not a valid string.']}}")),
        ("{name: n, type: open_ai, api_key: k, base_url: null}", format!("{load}{{'base_url': ['Field may not be null.']}}")),
        ("{name: n, type: azure_open_ai}", format!("{load}{{'api_base': ['Missing data for required field.']}}")),
        ("{name: n, type: azure_open_ai, api_base: x}", format!("{load}{{'_schema': [\"'api_key' is required for key auth mode connection.\"]}}")),
        ("{name: n, type: azure_open_ai, api_base: x, api_key: k, auth_mode: no}", format!("{load}{{'auth_mode': [\"Value 'no' passed is not in set ['meid_token', 'key']\"]}}")),
        ("{name: n, type: custom}", format!("{load}{{'secrets': ['Missing data for required field.']}}")),
        ("{name: n, type: custom, configs: {a: 1}, secrets: {k: v}}", format!("{load}{{'configs': {{'a': {{'value': ['Not a valid string.']}}}}}}")),
        ("{name: n, type: custom, secrets: {k: null}}", format!("{load}{{'secrets': {{'k': {{'value': ['Field may not be null.']}}}}}}")),
        ("{name: n, type: custom, configs: [a], secrets: {k: v}}", format!("{load}{{'configs': ['Not a valid mapping type.']}}")),
        ("{name: n, type: custom, secrets: {}}", "UserErrorException: Secrets is required for custom connection, please use CustomConnection(configs={key1: val1}, secrets={key2: val2}) to initialize custom connection.".to_owned()),
        ("{type: open_ai, api_key: k}", "ConnectionNameNotSetError: Name is required to create or update connection.".to_owned()),
        ("{name: n, type: open_ai, api_key: ''}", "ValidationException: Connection 'n' secrets ['api_key'] value invalid, please fill them.".to_owned()),
        ("{name: n, type: open_ai, api_key: <user-input>}", "ValidationException: Connection 'n' secrets ['api_key'] value invalid, please fill them.".to_owned()),
    ] {
        assert_eq!(message(yaml), expected, "{yaml}");
    }
    let unknown = message("{name: n, type: my_own}");
    assert!(unknown.starts_with("ValidationException: Connection type 'MyOwn' is not supported. Supported types are: ['AzureOpenAI', 'OpenAI', "), "{unknown}");
    for text in ["- a", "text", "a: [", "{type: open_ai, type: serp}"] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn an_identity_takes_the_keys_place() {
    for mode in ["meid_token", "MEID_TOKEN", "identity"] {
        let text = format!(
            "{{name: n, type: azure_open_ai, api_base: 'https://b.example', auth_mode: {mode}, api_key: s3cr3t}}"
        );
        let connection = read(&text).unwrap();
        assert!(connection.uses_identity());
        assert!(connection.secrets().is_empty());
        let document = connection.document(|_| panic!("there is no secret"));
        assert_eq!(document["value"]["auth_mode"], "meid_token");
        assert_eq!(document["secret_keys"], json!([]));
    }
    let text = "{name: n, type: azure_open_ai, api_base: x, auth_mode: null, api_key: k}";
    assert!(!read(text).unwrap().uses_identity());
}

#[test]
fn strong_types_are_custom_connections_that_know_their_class() {
    let text = "name: n\ntype: custom\ncustom_type: Mine\nmodule: my.connections\npackage: my-package\npackage_version: 0.0.2\nconfigs: {api_base: 'https://b.example'}\nsecrets: {api_key: s3cr3t}\n";
    let connection = read(text).unwrap();
    assert_eq!(connection.kind(), ConnectionType::Custom);
    let configs = connection.configs();
    assert_eq!(configs["promptflow.connection.custom_type"], "Mine");
    assert_eq!(configs["promptflow.connection.module"], "my.connections");
    let shown = connection.shown();
    assert_eq!(
        Value::from(shown.clone()),
        json!({
            "name": "n", "type": "custom", "module": "my.connections", "custom_type": "Mine",
            "package": "my-package", "package_version": "0.0.2",
            "configs": {"api_base": "https://b.example"}, "secrets": {"api_key": HIDDEN},
        })
    );
    // What is shown makes the same connection again, but for its secrets.
    let mut again = Fields::from(shown).connection().unwrap();
    again.keep_secrets(&connection);
    assert_eq!(again, connection);
    let partial = message("{name: n, type: custom, custom_type: Mine, secrets: {k: v}}");
    for field in ["module", "package", "package_version"] {
        assert!(
            partial.contains(&format!("'{field}': ['Missing data")),
            "{partial}"
        );
    }
}

#[test]
fn env_files_are_read_as_python_dotenv_reads_them() {
    let text = "A=1\nB='two'\n# c\nexport C=3 # x\nE=${A}x\nF=\"a\\nb # no\" # yes\nG='a\\nb'\nH=a#b\nI=${NOPE:-default}${NOPE}\nJ=${HOST}\nK=${env:HOST}\n\n  L = spaced out  \nM=\n";
    let variable = |name: &str| (name == "HOST").then(|| "of-the-environment".to_owned());
    let mut fields = Fields::from_dotenv(text, Some("env"), variable).unwrap();
    fields.resolve(variable).unwrap();
    fields.set("secrets.M", "m");
    let connection = fields.connection().unwrap();
    connection.check().unwrap();
    let secrets: Vec<(&str, &str)> = connection
        .secrets()
        .iter()
        .map(|(key, secret)| (key.as_str(), secret.reveal()))
        .collect();
    assert_eq!(
        secrets,
        [
            ("A", "1"),
            ("B", "two"),
            ("C", "3"),
            ("E", "1x"),
            ("F", "a\nb # no"),
            ("G", "a\\nb"),
            ("H", "a#b"),
            ("I", "default"),
            ("J", "of-the-environment"),
            ("K", "of-the-environment"),
            ("L", "spaced out"),
            ("M", "m"),
        ]
    );
    let of = |text: &str, name: Option<&str>| Fields::from_dotenv(text, name, no_variable);
    assert_eq!(of("A=1", None), Err(ConnectionError::EnvironmentName));
    assert_eq!(
        of("# nothing\n", Some("n")),
        Err(ConnectionError::EmptyEnvironment)
    );
    // One without a value is left open.
    let open = of("A\nB=1\n", Some("n")).unwrap().connection().unwrap();
    assert!(matches!(open.check(), Err(ConnectionError::Open { fields, .. }) if fields == ["A"]));
    for text in ["A='b", "=x", "A=\"b\" c"] {
        let error = of(text, Some("n")).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}

#[test]
fn fields_are_set_and_merged() {
    let mut fields = Fields::from_yaml("{name: n, type: open_ai, api_key: k}").unwrap();
    fields.set("api_key", "other");
    fields.set("organization", "o");
    let connection = fields.connection().unwrap();
    assert_eq!(connection.secrets()["api_key"].reveal(), "other");
    assert_eq!(connection.configs()["organization"], "o");
    let mut fields = Fields::of(
        &read("{name: n, type: custom, configs: {a: '1', b: '2'}, secrets: {k: v, l: w}}").unwrap(),
    );
    let changes = json!({"configs": {"a": null, "c.d": "3"}, "secrets": {"k": "new"}});
    let Value::Object(changes) = changes else {
        panic!()
    };
    fields.merge(changes.into());
    let mut merged = fields.connection().unwrap();
    let old = read("{name: n, type: custom, configs: {a: '1'}, secrets: {k: v, l: w}}").unwrap();
    merged.keep_secrets(&old);
    merged.check().unwrap();
    let configs: Vec<_> = merged.configs().keys().collect();
    assert_eq!(configs, ["b", "c.d"]);
    assert_eq!(merged.secrets()["k"].reveal(), "new");
    assert_eq!(merged.secrets()["l"].reveal(), "w");
    let mut fields = Fields::from_yaml("{name: n, type: open_ai, api_key: '${env:KEY}'}").unwrap();
    assert!(fields.has_references());
    assert_eq!(
        fields.resolve(no_variable).unwrap_err().to_string(),
        "Environment variable KEY is not found."
    );
    fields.resolve(|_| Some("found".to_owned())).unwrap();
    assert!(!fields.has_references());
    let unknown = Fields::from_yaml(
        "{name: n, type: open_ai, api_key: k, api_bas: x, created_date: d, module: m}",
    );
    assert_eq!(unknown.unwrap().unknown(), ["api_bas"]);
}

#[test]
fn a_kept_secret_does_not_move() {
    let old =
        read("{name: n, type: serverless, api_key: s3cr3t, api_base: 'https://a.example/v1'}")
            .unwrap();
    let change = |base: &str, key: &str| {
        let mut fields = Fields::of(&old);
        fields.set("api_base", base);
        fields.set("api_key", key);
        fields.connection().unwrap().check_moved(&old)
    };
    change("https://a.example/v2", HIDDEN).unwrap();
    change("https://b.example", "new").unwrap();
    for base in [
        "https://b.example",
        "http://a.example",
        "https://a.example:8443",
        "https://a.example.b.example",
    ] {
        let error = change(base, HIDDEN).unwrap_err();
        assert_eq!(
            error,
            ConnectionError::Moved {
                fields: vec!["api_key".to_owned()]
            },
            "{base}"
        );
    }
}

#[test]
fn files_of_connections_are_lists_or_mappings() {
    let variable = |name: &str| (name == "KEY").then(|| "s3cr3t".to_owned());
    let read = |text: &str| ConnectionSet::read(text, variable);
    for text in [
        "[{\"name\": \"a b\", \"type\": \"open_ai\", \"api_key\": \"${env:KEY}\"}]",
        "- {name: a b, type: open_ai, api_key: '${env:KEY}'}",
        "a b: {type: open_ai, api_key: '${env:KEY}'}",
        "{name: a b, type: open_ai, api_key: s3cr3t}",
        "{\"a b\": {\"type\": \"OpenAIConnection\", \"value\": {\"api_key\": \"s3cr3t\"}, \"secret_keys\": [\"api_key\"]}}",
    ] {
        let set = read(text).unwrap();
        assert_eq!(set.len(), 1);
        let connection = set.get("a b").unwrap().unwrap();
        assert_eq!(connection.secrets()["api_key"].reveal(), "s3cr3t");
    }
    let custom = read("{\"c\": {\"type\": \"CustomConnection\", \"value\": {\"a\": \"1\", \"k\": \"v\"}, \"secret_keys\": [\"k\"]}}").unwrap();
    let custom = custom.get("c").unwrap().unwrap();
    assert_eq!(custom.configs()["a"], "1");
    assert_eq!(custom.secrets()["k"].reveal(), "v");
    assert!(read("").unwrap().is_empty());
    assert!(read("[1]").is_err() && read("text").is_err());
    let twice = "[{name: a, type: serp, api_key: k}, {name: a, type: serp, api_key: k}]";
    assert_eq!(read(twice), Err(ConnectionError::Twice("a".to_owned())));
    let many: Vec<Value> = (0..101)
        .map(|n| json!({"name": format!("c{n}"), "type": "serp", "api_key": "k"}))
        .collect();
    assert!(read(&Value::from(many[..100].to_vec()).to_string()).is_ok());
    assert!(matches!(
        read(&Value::from(many).to_string()),
        Err(ConnectionError::TooMuch(_))
    ));
}

#[test]
fn everything_has_a_limit() {
    let named =
        |name: &str| read(&json!({"name": name, "type": "serp", "api_key": "k"}).to_string());
    assert!(named(&"n".repeat(MAX_NAME)).is_ok());
    for name in [
        &"n".repeat(MAX_NAME + 1),
        "a/b",
        "a\nb",
        " a",
        ".",
        "..",
        "a}",
    ] {
        assert_eq!(named(name), Err(ConnectionError::Name), "{name}");
    }
    let keyed = |key: &str| {
        read(&json!({"name": "n", "type": "custom", "secrets": {key: "v"}}).to_string())
    };
    assert!(keyed(&"k".repeat(MAX_KEY)).is_ok());
    for key in [&"k".repeat(MAX_KEY + 1), "", "a\nb"] {
        assert!(keyed(key).is_err(), "{key}");
    }
    let valued = |length| {
        read(
            &json!({"name": "n", "type": "custom", "secrets": {"k": "v".repeat(length)}})
                .to_string(),
        )
    };
    assert!(valued(MAX_VALUE).is_ok() && valued(MAX_VALUE + 1).is_err());
    let many = |count: usize, length: usize| {
        let secrets: serde_json::Map<String, Value> = (0..count)
            .map(|n| (format!("k{n}"), "v".repeat(length).into()))
            .collect();
        read(&json!({"name": "n", "type": "custom", "secrets": secrets}).to_string())
    };
    assert!(many(MAX_FIELDS, 1).is_ok() && many(MAX_FIELDS + 1, 1).is_err());
    assert!(many(4, MAX_VALUE).is_err());
    assert!(read(&"#".repeat(2 << 20)).is_err());
}

#[test]
fn placeholders_differ_by_session_connection_and_field() {
    let text = "{name: a, type: custom, configs: {u: 'https://u.example'}, secrets: {b: s3cr3t, bc: other}}";
    let connection = Arc::new(read(text).unwrap());
    let of = |secret: &[u8], session: &str| {
        let mut placeholders = Placeholders::new(PlaceholderKey::of_session(secret, session));
        placeholders.put(Arc::clone(&connection));
        placeholders
    };
    let one = of(b"key", "w s");
    let token = one.field("a", "b").unwrap();
    assert!(is_placeholder(&token) && token.len() == 16 + 32, "{token}");
    assert_eq!(one.field("a", "u").unwrap(), "https://u.example");
    assert_eq!(one.field("a", "nope"), None);
    assert_eq!(of(b"key", "w s").field("a", "b").unwrap(), token);
    for other in [of(b"key", "w t"), of(b"yek", "w s")] {
        assert_ne!(other.field("a", "b").unwrap(), token);
        assert!(other.find(&token).is_none());
    }
    assert_ne!(one.field("a", "bc").unwrap(), token);
    let key = PlaceholderKey::of_session(b"key", "w s");
    assert_ne!(key.token("ab", "c"), key.token("a", "bc"));
    let random = || PlaceholderKey::random().unwrap().token("a", "b");
    assert_ne!(random(), random());
    let held = one.find(&token).unwrap();
    assert_eq!(
        (held.connection.name(), held.field, held.secret()),
        ("a", "b", "s3cr3t")
    );
    assert_eq!(held.origins()[0].to_string(), "https://u.example:443");
    let document = one.document("a").unwrap();
    assert_eq!(document["value"]["b"], token.as_str());
    // A change of the secret is behind the same placeholder.
    let mut one = one;
    one.put(Arc::new(read(&text.replace("s3cr3t", "rotated")).unwrap()));
    assert_eq!(one.find(&token).unwrap().secret(), "rotated");
    one.remove("a");
    assert!(one.find(&token).is_none());
    for text in [
        "",
        "flowcell-secret-",
        "flowcell-secret-0123456789abcdef0123456789abcdeg",
        "flowcell-secret-0123456789ABCDEF0123456789ABCDEF",
    ] {
        assert!(!is_placeholder(text), "{text}");
    }
}

#[test]
fn what_stands_for_a_secret() {
    for text in ["", "*", "******", "<no-change>", "<user-input>"] {
        assert!(is_scrubbed(text));
    }
    assert!(!is_scrubbed("*a*") && !is_scrubbed("k"));
}

proptest! {
    #[test]
    fn a_secret_is_never_printed(
        kind in proptest::sample::select(ConnectionType::ALL.to_vec()),
        secret in "s3cr3t-[a-z0-9\"\\\\\n]{8,40}",
        field in "[a-z_]{1,12}",
        config in "[ -~]{0,40}",
    ) {
        let mut fields = json!({
            "name": "n", "type": kind.as_str(), "api_key": secret, "api_base": config,
            "endpoint": config, "organization": config,
        });
        if kind == ConnectionType::Custom {
            fields["configs"] = json!({"u": config});
            fields["secrets"] = json!({field: secret});
        }
        let Value::Object(fields) = fields else { unreachable!() };
        let fields = Fields::from(fields);
        let connection = fields.connection().unwrap();
        connection.check().unwrap();
        let key = PlaceholderKey::random().unwrap();
        let mut placeholders = Placeholders::new(key.clone());
        placeholders.put(Arc::new(connection.clone()));
        let set: ConnectionSet = [connection.clone()].into_iter().collect();
        for printed in [
            format!("{fields:?} {connection:?} {connection} {placeholders:?} {key:?} {set:?}"),
            Value::from(connection.shown()).to_string(),
            connection.document(|field| key.token("n", field)).to_string(),
            serde_json::to_string(&connection).unwrap(),
            serde_json::to_string(&set).unwrap(),
        ] {
            prop_assert!(!printed.contains("s3cr3t"), "{printed}");
        }
    }

    #[test]
    fn no_text_is_too_strange(text in ".{0,200}") {
        let _ = Fields::from_yaml(&text).and_then(|fields| fields.connection());
        let _ = Fields::from_dotenv(&text, Some("n"), no_variable);
        let _ = ConnectionSet::read(&text, no_variable);
    }
}
