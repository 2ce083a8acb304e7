//! Tokens of an identity provider.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flowcell_tests::server::{Server, wait_until, workspace};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

const AUDIENCE: &str = "flowcell";

/// A key of the provider.
struct Key {
    id: String,
    algorithm: Algorithm,
    private: EncodingKey,
    public_pem: String,
}

impl Key {
    fn ec(id: &str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let private = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self {
            id: id.to_owned(),
            algorithm: Algorithm::ES256,
            private,
            public_pem: pair.public_key_pem(),
        }
    }

    fn rsa(id: &str) -> Self {
        let pair =
            rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
                .unwrap();
        let private = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self {
            id: id.to_owned(),
            algorithm: Algorithm::RS256,
            private,
            public_pem: pair.public_key_pem(),
        }
    }

    fn public(&self) -> Jwk {
        let mut public = Jwk::from_encoding_key(&self.private, self.algorithm).unwrap();
        public.common.key_id = Some(self.id.clone());
        public
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.clone());
        encode(&header, claims, &self.private).unwrap()
    }
}

/// An identity provider on this machine.
struct Provider {
    address: String,
    keys: Arc<Mutex<JwkSet>>,
    asked: Arc<Mutex<usize>>,
}

impl Provider {
    fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let provider = Self {
            address: listener.local_addr().unwrap().to_string(),
            keys: Arc::default(),
            asked: Arc::default(),
        };
        provider.publish(keys);
        let (keys, asked) = (Arc::clone(&provider.keys), Arc::clone(&provider.asked));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let head = BufReader::new(stream.try_clone().unwrap())
                    .lines()
                    .map_while(Result::ok);
                head.take_while(|line| !line.is_empty()).for_each(drop);
                *asked.lock().unwrap() += 1;
                let body = serde_json::to_string(&*keys.lock().unwrap()).unwrap();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        provider
    }

    fn publish(&self, keys: &[&Key]) {
        *self.keys.lock().unwrap() = JwkSet {
            keys: keys.iter().map(|key| key.public()).collect(),
        };
    }

    fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    fn server(&self) -> Server {
        Server::configured(&format!(
            "[auth.oidc]\nissuer = \"{0}\"\naudience = \"{AUDIENCE}\"\njwks_url = \"{0}/keys\"\n",
            self.issuer()
        ))
    }

    fn claims(&self, user: &str) -> Value {
        json!({"iss": self.issuer(), "aud": AUDIENCE, "sub": user, "exp": now() + 600})
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

fn without(claims: &Value, name: &str) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// A token of this header and these claims, signed by nobody.
fn unsigned(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

#[test]
fn a_good_token_is_a_users() {
    let (ec, rsa) = (Key::ec("e1"), Key::rsa("r1"));
    let provider = Provider::start(&[&ec, &rsa]);
    let server = provider.server();
    for key in [&ec, &rsa] {
        let client = server.client(&key.sign(&provider.claims("ann|7")));
        let me = client.get("/v1/me").is(200).json;
        assert_eq!(
            me,
            json!({"name": "oidc:ann|7", "admin": false, "roles": []})
        );
    }
    assert_eq!(*provider.asked.lock().unwrap(), 1, "the keys are kept");
    let client = server.client(&ec.sign(&provider.claims("ann|7")));
    client.get(&workspace("/flows")).expect(404);
    let admin = server.admin();
    admin
        .put(&workspace("/roles/oidc:ann%7C7"), json!({"role": "reader"}))
        .expect(200);
    client.get(&workspace("/flows")).expect(200);
    // No token names a user of this host, whatever its provider says.
    let me = server
        .client(&ec.sign(&provider.claims("admin")))
        .get("/v1/me")
        .is(200)
        .json;
    assert_eq!(
        (&me["name"], &me["admin"]),
        (&json!("oidc:admin"), &json!(false))
    );
    // Lists of audiences have ours among them.
    let claims = with(&provider.claims("ann"), "aud", json!(["other", AUDIENCE]));
    server.client(&ec.sign(&claims)).get("/v1/me").expect(200);
}

#[test]
fn tokens_that_are_not_good_are_refused() {
    let (ec, rsa) = (Key::ec("e1"), Key::rsa("r1"));
    let provider = Provider::start(&[&ec, &rsa]);
    let server = provider.server();
    let claims = provider.claims("ann");
    server.client(&ec.sign(&claims)).get("/v1/me").expect(200);
    let other = Key::ec("e1");
    let hmac = |key: &Key, secret: &str| {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key.id.clone());
        encode(
            &header,
            &claims,
            &EncodingKey::from_secret(secret.as_bytes()),
        )
        .unwrap()
    };
    let good = ec.sign(&claims);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let forged = URL_SAFE_NO_PAD.encode(with(&claims, "sub", json!("eve")).to_string());
    let tokens = [
        (
            "another issuer",
            ec.sign(&with(&claims, "iss", json!("http://evil"))),
        ),
        ("no issuer", ec.sign(&without(&claims, "iss"))),
        (
            "another audience",
            ec.sign(&with(&claims, "aud", json!("other"))),
        ),
        ("no audience", ec.sign(&without(&claims, "aud"))),
        (
            "its time is over",
            ec.sign(&with(&claims, "exp", json!(now() - 600))),
        ),
        ("no end", ec.sign(&without(&claims, "exp"))),
        (
            "not yet good",
            ec.sign(&with(&claims, "nbf", json!(now() + 600))),
        ),
        ("no user", ec.sign(&without(&claims, "sub"))),
        (
            "a user that is no name",
            ec.sign(&with(&claims, "sub", json!("a b/../c"))),
        ),
        (
            "a user that is no text",
            ec.sign(&with(&claims, "sub", json!(7))),
        ),
        ("somebody else's key", other.sign(&claims)),
        (
            "no algorithm",
            unsigned(
                &json!({"alg": "none", "typ": "JWT", "kid": "e1"}),
                &claims,
                "",
            ),
        ),
        (
            "no algorithm, signed",
            unsigned(&json!({"alg": "none", "kid": "e1"}), &claims, signature),
        ),
        ("the public key as a secret", hmac(&rsa, &rsa.public_pem)),
        ("the public key as a secret", hmac(&ec, &ec.public_pem)),
        ("an empty secret", hmac(&ec, "")),
        (
            "another algorithm",
            unsigned(&json!({"alg": "RS256", "kid": "e1"}), &claims, signature),
        ),
        (
            "no key",
            unsigned(&json!({"alg": "ES256"}), &claims, signature),
        ),
        ("changed", format!("{header}.{forged}.{signature}")),
        ("cut", signed.to_owned()),
        ("without signature", format!("{signed}.")),
        ("long", format!("{good}{}", "A".repeat(20_000))),
    ];
    for (what, token) in &tokens {
        let answer = wait_until("the limit on wrong keys lets it through", || {
            Some(server.client(token).get("/v1/me")).filter(|answer| answer.status != 429)
        });
        assert_eq!(answer.status, 401, "{what}: {answer:#?}");
    }
    let answer = wait_until("the limit lets it through", || {
        Some(server.client(&tokens[0].1).get("/v1/me")).filter(|answer| answer.status != 429)
    });
    answer.is_problem(401, "unauthorized", &["the token is refused"]);
    server.client(&good).get("/v1/me").expect(200);
}

#[test]
fn keys_of_the_provider_change() {
    let (old, new) = (Key::ec("old"), Key::ec("new"));
    let provider = Provider::start(&[&old]);
    let server = provider.server();
    let claims = provider.claims("ann");
    server.client(&old.sign(&claims)).get("/v1/me").expect(200);
    provider.publish(&[&old, &new]);
    let token = new.sign(&claims);
    // Whoever makes up keys does not make the server ask each time.
    let unknown = Key::ec("unknown").sign(&claims);
    for _ in 0..5 {
        server.client(&unknown).get("/v1/me").expect(401);
    }
    assert_eq!(*provider.asked.lock().unwrap(), 1);
    wait_until("the new key is known", || {
        (server.client(&token).get("/v1/me").status == 200).then_some(())
    });
    server.client(&old.sign(&claims)).get("/v1/me").expect(200);
}

#[test]
fn a_provider_that_is_away_keeps_out_tokens_only() {
    let key = Key::ec("k");
    let provider = Provider::start(&[&key]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = listener.local_addr().unwrap();
    drop(listener);
    let server = Server::configured(&format!(
        "[auth.oidc]\nissuer = \"{}\"\naudience = \"{AUDIENCE}\"\njwks_url = \"http://{nowhere}/keys\"\n",
        provider.issuer()
    ));
    let token = key.sign(&provider.claims("ann"));
    server
        .client(&token)
        .get("/v1/me")
        .is_problem(401, "unauthorized", &["cannot be fetched"]);
    server.admin().get("/v1/me").expect(200);
}
