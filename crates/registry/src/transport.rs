//! Requests: where they may go, what goes along, and how long they may take.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use flowcell_egress::HostPattern;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Body, Certificate, Method, Response, Url};

use crate::error::{RegistryError, Trouble};
use crate::place::{Origin, Place};
use crate::retry::Failure;
use crate::settings::Settings;

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 5;

/// What proves a client, and to whom.
#[derive(Clone)]
pub(crate) struct Authorization {
    origin: Origin,
    value: HeaderValue,
}

impl Authorization {
    /// `None` if the value does not fit into a header.
    pub(crate) fn new(origin: Origin, value: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        Some(Self { origin, value })
    }
}

/// A request but for who asks.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Bytes>,
}

impl Request {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            body: None,
        }
    }
}

/// The connections of a client.
#[derive(Debug)]
pub(crate) struct Transport {
    remote: reqwest::Client,
    /// What is on the same machine is not asked for by way of a proxy.
    local: reqwest::Client,
    idle: Duration,
    other_hosts: Option<Vec<HostPattern>>,
}

impl Transport {
    /// # Errors
    /// When a root certificate cannot be read, or TLS not be set up.
    pub(crate) fn new(settings: &Settings) -> Result<Self, RegistryError> {
        let unusable = |error: reqwest::Error| RegistryError::Settings(chain(&error));
        let no_tls = |error: reqwest::Error| {
            let error = chain(&error);
            RegistryError::Settings(format!(
                "{error}; install the system's certificates (`ca-certificates`), or add root certificates"
            ))
        };
        let mut certificates = Vec::new();
        for pem in &settings.root_certificates {
            let read = Certificate::from_pem_bundle(pem).map_err(unusable)?;
            if read.is_empty() {
                return Err(RegistryError::Settings(
                    "a file of root certificates has none (PEM)".to_owned(),
                ));
            }
            certificates.extend(read);
        }
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("flowcell/", env!("CARGO_PKG_VERSION")))
                // Followed by `send`, which looks where they lead and leaves the authorization behind.
                .redirect(Policy::none())
                .referer(false)
                .connect_timeout(settings.connect_timeout)
                .tls_certs_merge(certificates.clone())
        };
        Ok(Self {
            remote: builder().build().map_err(no_tls)?,
            local: builder().no_proxy().build().map_err(no_tls)?,
            idle: settings.idle_timeout,
            other_hosts: settings.other_hosts.clone(),
        })
    }

    /// How long nothing may come, or be taken.
    pub(crate) fn idle(&self) -> Duration {
        self.idle
    }

    /// Sends a request, follows where the registry refers to, and gives the answer without its body. The authorization is
    /// left behind at the first step to another place: "clients MUST NOT forward Authorization headers across host
    /// boundaries" (OCI distribution specification, "Pulling blobs"; CVE-2020-15157).
    pub(crate) async fn send(
        &self,
        place: &Place,
        mut request: Request,
        mut authorization: Option<Authorization>,
    ) -> Result<Response, Failure> {
        for _ in 0..=MAX_REDIRECTS {
            let origin = self.check(place, &request.url)?;
            authorization.take_if(|authorization| authorization.origin != origin);
            let mut builder = self
                .client(&origin)
                .request(request.method.clone(), request.url.clone())
                .headers(request.headers.clone());
            if let Some(authorization) = &authorization {
                builder = builder.header(AUTHORIZATION, authorization.value.clone());
            }
            if let Some(body) = &request.body {
                builder = builder.body(body.clone());
            }
            let response = self.in_time(builder.send()).await;
            let response = response.map_err(|trouble| failure(place, &origin, trouble))?;
            let is_followed = matches!(request.method, Method::GET | Method::HEAD)
                && matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !is_followed {
                return Ok(response);
            }
            request.url = location(place, &response)?;
        }
        Err(place
            .answer(format!("more than {MAX_REDIRECTS} redirects"))
            .into())
    }

    /// Sends a body that is made while it is sent. Who calls limits the time.
    pub(crate) async fn upload(
        &self,
        place: &Place,
        request: Request,
        body: Body,
        authorization: Option<Authorization>,
    ) -> Result<Response, Failure> {
        let origin = self.check(place, &request.url)?;
        let authorization = authorization.filter(|authorization| authorization.origin == origin);
        let mut builder = self
            .client(&origin)
            .request(request.method, request.url)
            .headers(request.headers)
            .body(body);
        if let Some(authorization) = authorization {
            builder = builder.header(AUTHORIZATION, authorization.value);
        }
        let response = builder.send().await;
        response.map_err(|error| failure(place, &origin, connection(error)))
    }

    /// The next bytes of an answer.
    pub(crate) async fn chunk(&self, response: &mut Response) -> Result<Option<Bytes>, Trouble> {
        self.in_time(response.chunk()).await
    }

    /// All bytes of an answer; `None` if there are more than so many.
    pub(crate) async fn body(
        &self,
        mut response: Response,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, Trouble> {
        let mut body = Vec::new();
        if response
            .content_length()
            .is_some_and(|length| length > limit)
        {
            return Ok(None);
        }
        while let Some(chunk) = self.chunk(&mut response).await? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body))
    }

    fn client(&self, origin: &Origin) -> &reqwest::Client {
        if origin.is_loopback() {
            &self.local
        } else {
            &self.remote
        }
    }

    /// Whether a request may go there, and whom it would go to.
    fn check(&self, place: &Place, url: &Url) -> Result<Origin, RegistryError> {
        let own = place.origin();
        let origin = Origin::of(url);
        let refused = |why| RegistryError::Redirect {
            reference: place.name.clone(),
            address: origin.to_string(),
            why,
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("it has a user's name in it"));
        }
        if origin == own {
            return Ok(origin);
        }
        match origin.scheme.as_str() {
            "https" => {}
            "http" if origin.is_loopback() => {}
            _ => return Err(refused("only https is used, and http on the same machine")),
        }
        if origin.is_loopback() && !own.is_loopback() {
            return Err(refused(
                "a registry elsewhere must not lead to services of this machine",
            ));
        }
        if let Some(allowed) = &self.other_hosts
            && !origin.matches(allowed)
        {
            return Err(refused(
                "this host's list of other hosts that registries may refer to does not have it",
            ));
        }
        Ok(origin)
    }

    async fn in_time<T>(
        &self,
        future: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, Trouble> {
        match tokio::time::timeout(self.idle, future).await {
            Ok(result) => result.map_err(connection),
            Err(_) => Err(Trouble::Silent(self.idle)),
        }
    }
}

/// Addresses may have secrets in them (signed addresses of stores), so they are not in errors.
fn connection(error: reqwest::Error) -> Trouble {
    Trouble::Connection(Box::new(error.without_url()))
}

/// A certificate that is not trusted will not be the next time either.
fn failure(place: &Place, origin: &Origin, trouble: Trouble) -> Failure {
    let is_certificate = matches!(&trouble, Trouble::Connection(error) if is_certificate(&**error));
    if !is_certificate {
        return Failure::Again(trouble);
    }
    Failure::Final(RegistryError::Certificate {
        reference: place.name.clone(),
        address: origin.to_string(),
        source: trouble,
    })
}

fn is_certificate(error: &(dyn StdError + 'static)) -> bool {
    if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
        return true;
    }
    // An I/O error does not give out what it was made from as its source.
    let inner = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match inner {
        Some(inner) => is_certificate(inner),
        None => error.source().is_some_and(is_certificate),
    }
}

/// Where an answer refers to.
pub(crate) fn location(place: &Place, response: &Response) -> Result<Url, RegistryError> {
    let location = response.headers().get(LOCATION);
    let location = location.and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| place.answer("it refers to nowhere (no Location)"))?;
    let url = response.url().join(location);
    url.map_err(|_| place.answer("it refers to what is no address (Location)"))
}

/// An error with all its causes.
fn chain(error: &dyn StdError) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn place(image: &str) -> Place {
        Place::of(&image.parse().unwrap()).unwrap()
    }

    fn check(settings: &Settings, image: &str, url: &str) -> Result<Origin, RegistryError> {
        let transport = Transport::new(settings).unwrap();
        transport.check(&place(image), &Url::parse(url).unwrap())
    }

    #[test]
    fn where_a_registry_may_lead() {
        let any = Settings::default();
        let remote = "registry.example.com/a";
        for (image, url, expected) in [
            (remote, "https://registry.example.com/b", true),
            (remote, "https://store.example.com/b", true),
            (remote, "http://registry.example.com/b", false),
            (remote, "http://store.example.com/b", false),
            (remote, "https://user@store.example.com/b", false),
            (
                remote,
                "https://user:password@registry.example.com/b",
                false,
            ),
            (remote, "http://127.0.0.1/b", false),
            (remote, "https://127.0.0.1/b", false),
            (remote, "https://localhost/b", false),
            (remote, "https://[::1]/b", false),
            (remote, "file:///b", false),
            (remote, "ftp://store.example.com/b", false),
            ("localhost:5000/a", "http://127.0.0.1:1/b", true),
            ("localhost:5000/a", "https://store.example.com/b", true),
            ("localhost:5000/a", "http://store.example.com/b", false),
        ] {
            let found = check(&any, image, url);
            assert_eq!(found.is_ok(), expected, "{url}: {found:?}");
        }
        let some = Settings {
            other_hosts: Some(vec!["store.example.com".parse().unwrap()]),
            ..Settings::default()
        };
        assert!(check(&some, remote, "https://registry.example.com/b").is_ok());
        assert!(check(&some, remote, "https://store.example.com/b").is_ok());
        assert!(check(&some, remote, "https://store.example.com:444/b").is_err());
        let error = check(
            &some,
            remote,
            "https://b.example.com/secret?signature=secret",
        );
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("https://b.example.com:443") && !text.contains("secret"),
            "{text}"
        );
    }

    #[test]
    fn root_certificates_must_be_certificates() {
        for pem in [
            "",
            "nonsense",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let settings = Settings {
                root_certificates: vec![pem.into()],
                ..Settings::default()
            };
            let error = Transport::new(&settings).unwrap_err();
            assert!(matches!(error, RegistryError::Settings(_)), "{error}");
        }
    }
}
