//! What is in an app, as CycloneDX 1.6 has it. The same app gives the same text: it has no time in it, and its serial number
//! is made from the app's digest.

use std::collections::BTreeMap;
use std::path::PathBuf;

use flowcell_bundle::{Digest, Manifest};
use flowcell_environment::{CarriedComponent, CarriedWheel, Site, licenses};
use flowcell_sandbox::ProgramKind;
use serde::Serialize;

const SPEC_VERSION: &str = "1.6";

/// What goes into it.
pub(super) struct Sbom<'a> {
    pub(super) name: &'a str,
    pub(super) app: Digest,
    pub(super) manifest: &'a Manifest,
    pub(super) bundle: Digest,
    /// The folder with the image's packages.
    pub(super) packages: Option<PathBuf>,
    pub(super) site: Option<&'a Site>,
    pub(super) wheels: &'a [CarriedWheel],
    pub(super) components: &'a [CarriedComponent],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Serialize)]
struct Metadata {
    tools: Tools,
    component: Component,
}

#[derive(Serialize)]
struct Tools {
    components: Vec<Component>,
}

#[derive(Default, Serialize)]
struct Component {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref")]
    reference: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<LicenseChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
}

#[derive(Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Serialize)]
struct LicenseChoice {
    license: License,
}

#[derive(Serialize)]
struct License {
    name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    #[serde(rename = "ref")]
    reference: String,
    depends_on: Vec<String>,
}

impl Component {
    fn new(kind: &'static str, name: &str, version: Option<&str>) -> Self {
        let mut reference = format!("{kind}:{name}");
        if let Some(version) = version {
            reference.push_str(&format!("@{version}"));
        }
        Self {
            kind,
            reference,
            name: name.to_owned(),
            version: version.map(str::to_owned),
            ..Self::default()
        }
    }

    /// A package of the Python Package Index, or of another index with its rules: names are normalized (PEP 503).
    fn package(name: &str, version: &str, from: &'static str) -> Self {
        let normal = name.to_lowercase().replace(['_', '.'], "-");
        let purl = format!("pkg:pypi/{normal}@{}", encoded(version));
        Self {
            reference: format!("{from}:{purl}"),
            purl: Some(purl),
            ..Self::new("library", &normal, Some(version))
        }
    }

    fn hash(mut self, digest: &Digest) -> Self {
        self.hashes.push(Hash {
            alg: "SHA-256",
            content: digest.hex(),
        });
        self
    }

    fn license(mut self, license: Option<&str>) -> Self {
        self.licenses.extend(license.map(|name| LicenseChoice {
            license: License {
                name: name.to_owned(),
            },
        }));
        self
    }
}

/// As package URLs want versions: `+` and `!` among them are written by number.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

impl Sbom<'_> {
    pub(super) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let components = self.components();
        let app = Component::new("application", self.name, None).hash(&self.app);
        let dependencies = vec![Dependency {
            reference: app.reference.clone(),
            depends_on: components.iter().map(|one| one.reference.clone()).collect(),
        }];
        let flowcell = Component::new("application", "flowcell", Some(env!("CARGO_PKG_VERSION")));
        let document = Document {
            bom_format: "CycloneDX",
            spec_version: SPEC_VERSION,
            serial_number: self.serial_number(),
            version: 1,
            metadata: Metadata {
                tools: Tools {
                    components: vec![flowcell],
                },
                component: app,
            },
            components,
            dependencies,
        };
        serde_json::to_vec_pretty(&document)
    }

    /// A UUID of version 8 (RFC 9562), whose content is anybody's to choose.
    fn serial_number(&self) -> String {
        let bytes = u128::from_str_radix(&self.app.hex()[..32], 16).unwrap_or(0);
        let builder = uuid::Builder::from_u128(bytes)
            .with_version(uuid::Version::Custom)
            .with_variant(uuid::Variant::RFC4122);
        format!("urn:uuid:{}", builder.into_uuid())
    }

    fn components(&self) -> Vec<Component> {
        let manifest = self.manifest;
        let mut components = vec![Component {
            description: Some("the base image"),
            ..Component::new("platform", &manifest.name, Some(&manifest.version)).hash(&self.bundle)
        }];
        for one in &manifest.components {
            components.push(Component {
                description: Some(match one.kind {
                    ProgramKind::PythonRunner => {
                        "a component of the base image: runs the flow's Python"
                    }
                    ProgramKind::Tool => "a component of the base image: its built-in tools",
                }),
                ..Component::new("application", &one.name, Some(&manifest.version))
                    .hash(&one.digest)
            });
        }
        if let Some(python) = &manifest.python {
            let (name, version) = ("cpython", python.version.as_str());
            components.push(Component {
                purl: Some(format!("pkg:generic/{name}@{}", encoded(version))),
                ..Component::new("platform", name, Some(version))
            });
            let licenses: BTreeMap<String, String> = self
                .packages
                .as_deref()
                .map(licenses)
                .unwrap_or_default()
                .into_iter()
                .collect();
            for package in &python.packages {
                let component = Component::package(&package.name, &package.version, "image");
                let license = licenses.get(&component.name).map(String::as_str);
                components.push(component.license(license));
            }
        }
        let installed = self.site.map_or(&[][..], |site| &site.packages);
        for wheel in self.wheels {
            let package = installed.iter().find(|one| one.name == wheel.package);
            let license = package.and_then(|package| package.license.as_deref());
            let component = Component::package(&wheel.package, &wheel.version, "requirements");
            components.push(component.hash(&wheel.digest).license(license));
        }
        for one in self.components {
            let component = Component::new("library", &one.package, Some(&one.version));
            components.push(Component {
                description: Some("a component package: tools in WebAssembly"),
                ..component.hash(&one.digest)
            });
        }
        components
    }
}
