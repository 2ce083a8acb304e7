//! What this platform is to packages: markers, and which wheels fit.

use std::sync::LazyLock;

use uv_distribution_filename::WheelFilename;
use uv_pep508::{MarkerEnvironment, MarkerEnvironmentBuilder};
use uv_platform_tags::{Arch, Os, Platform, Tags, TagsOptions};

use crate::error::EnvironmentError;

/// How well a wheel fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// It has compiled modules, which are left out; whether it runs without them shows when it is imported.
    Native,
    /// It is Python only.
    Pure,
}

/// The platform of a bundle's Python.
#[derive(Debug, Clone)]
pub(crate) struct PythonPlatform {
    pub(crate) markers: MarkerEnvironment,
    pure: Tags,
    native: Vec<Tags>,
}

/// Wheels for these versions of Python 3 are looked into for their Python parts.
const OLDEST_NATIVE: u8 = 6;

impl PythonPlatform {
    /// The platform of this version of CPython (`3.14.2`) in WebAssembly.
    ///
    /// # Errors
    /// When it is no version.
    pub(crate) fn new(version: &str) -> Result<Self, EnvironmentError> {
        let failed = |why: String| {
            EnvironmentError::Host(format!("CPython {version}, of the base image: {why}"))
        };
        let short = version.split('.').take(2).collect::<Vec<_>>().join(".");
        let markers = MarkerEnvironment::try_from(MarkerEnvironmentBuilder {
            implementation_name: "cpython",
            implementation_version: version,
            os_name: "posix",
            platform_machine: "wasm32",
            platform_python_implementation: "CPython",
            platform_release: "0.0.0",
            platform_system: "wasi",
            platform_version: "0.0.0",
            python_full_version: version,
            python_version: &short,
            sys_platform: "wasi",
        });
        let markers = markers.map_err(|error| failed(error.to_string()))?;
        let mut parts = version.split('.').map(str::parse::<u8>);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
            return Err(failed("is no version".to_owned()));
        };
        // No wheel has the tag of this platform, so that those that are left are for any.
        let nowhere = Platform::new(Os::Pyodide { major: 0, minor: 0 }, Arch::Wasm32);
        let linux = Platform::new(
            Os::Manylinux {
                major: 2,
                minor: 40,
            },
            Arch::X86_64,
        );
        let tags = |platform: &Platform, minor: u8| {
            let options = TagsOptions {
                manylinux_compatible: true,
                ..TagsOptions::default()
            };
            Tags::from_env(
                platform.clone(),
                (major, minor),
                "cpython",
                (major, minor),
                options,
            )
            .map_err(|error| failed(error.to_string()))
        };
        Ok(Self {
            markers,
            pure: tags(&nowhere, minor)?,
            native: (OLDEST_NATIVE..=minor)
                .rev()
                .map(|minor| tags(&linux, minor))
                .collect::<Result<_, _>>()?,
        })
    }

    /// How a wheel fits; `None` when it does not.
    pub(crate) fn fit(&self, wheel: &WheelFilename) -> Option<Fit> {
        if wheel.is_compatible(&self.pure) {
            return Some(Fit::Pure);
        }
        let is_native = self.native.iter().any(|tags| wheel.is_compatible(tags));
        is_native.then_some(Fit::Native)
    }
}

/// Distributions of promptflow itself: the base image brings what tools import of them.
pub(crate) static BROUGHT: LazyLock<Vec<uv_normalize::PackageName>> = LazyLock::new(|| {
    [
        "promptflow",
        "promptflow-azure",
        "promptflow-core",
        "promptflow-devkit",
        "promptflow-tools",
        "promptflow-tracing",
    ]
    .iter()
    .filter_map(|name| name.parse().ok())
    .collect()
});
