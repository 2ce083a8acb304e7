//! From requirements to a set of versions: uv's resolver, over indexes that answer through the guard.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;

use flowcell_bundle::chain;
use uv_client::MetadataFormat;
use uv_configuration::{
    BuildOptions, Constraints, Excludes, HashCheckingMode, NoBinary, NoBuild, Overrides,
};
use uv_distribution::ArchiveMetadata;
use uv_distribution_filename::{DistFilename, SourceDistFilename, WheelFilename};
use uv_distribution_types::{
    BuiltDist, Dist, File, HashComparison, IncompatibleSource, IncompatibleWheel,
    IndexCapabilities, IndexMetadata, IndexMetadataRef, IndexUrl, InstalledDist, Name as _,
    PrioritizedDist, PythonRequirementKind, RegistryBuiltWheel, RegistrySourceDist, RequestedDist,
    Requirement, RequirementSource, RequiresPython, Resolution, ResolvedDist,
    SourceDistCompatibility, UnresolvedRequirement, UnresolvedRequirementSpecification,
    WheelCompatibility,
};
use uv_git::GitResolver;
use uv_normalize::PackageName;
use uv_pep440::{Operator, Version};
use uv_platform_tags::{IncompatibleTag, TagPriority};
use uv_pypi_types::{Conflicts, HashDigest, ResolverMarkerEnvironment};
use uv_requirements_txt::RequirementsTxtRequirement;
use uv_resolver::{
    Exclusions, FlatDistributions, InMemoryIndex, Manifest, MetadataResponse, OptionsBuilder,
    PackageVersionsResult, Preferences, Prerelease, PrereleaseMode, PythonRequirement,
    ResolveError, Resolver, ResolverEnvironment, ResolverProvider, VersionMap, VersionsResponse,
    WheelMetadataResult,
};
use uv_types::{HashStrategy, InstalledPackagesProvider};

use crate::error::{EnvironmentError, is_disk_full};
use crate::index::Indexes;
use crate::lock::{Archive, LockedPackage, LockedWheel};
use crate::platform::{BROUGHT, Fit, PythonPlatform};
use crate::requirements::Wanted;

/// Packages that an environment may have.
const MAX_PACKAGES: usize = 500;

/// What came of it.
pub(crate) struct Resolved {
    /// What is to be installed.
    pub(crate) packages: Vec<LockedPackage>,
    /// What whoever wrote the requirements should know.
    pub(crate) notes: Vec<String>,
}

/// Finds versions that fit, for what the image does not have. Without indexes only the image is looked into.
///
/// # Errors
/// When there are none, in the resolver's own words; when an index does not answer.
pub(crate) async fn resolve(
    wanted: &Wanted,
    platform: &PythonPlatform,
    indexes: Option<&Indexes>,
    installed: &Installed,
) -> Result<Resolved, EnvironmentError> {
    let mut notes = Vec::new();
    let entries = wanted.parsed.requirements.iter().cloned();
    let specifications: Vec<UnresolvedRequirementSpecification> = entries
        .map(UnresolvedRequirementSpecification::from)
        .collect();
    let mut requirements = Vec::new();
    for specification in &specifications {
        let requirement = named(&specification.requirement)?;
        if BROUGHT.contains(&requirement.name) {
            if !matches!(&requirement.source, RequirementSource::Registry { specifier, .. } if specifier.is_empty())
            {
                notes.push(format!(
                    "{requirement}: the base image's own {} is used",
                    requirement.name
                ));
            }
            continue;
        }
        requirements.push(requirement);
    }
    let constraints: Vec<Requirement> = wanted
        .parsed
        .constraints
        .iter()
        .map(|constraint| Requirement::from(constraint.clone()))
        .filter(|constraint| !BROUGHT.contains(&constraint.name))
        .collect();
    let environment = ResolverMarkerEnvironment::from(platform.markers.clone());
    let mode = if wanted.parsed.require_hashes
        || specifications.iter().any(|one| !one.hashes.is_empty())
    {
        HashCheckingMode::Require
    } else {
        HashCheckingMode::Verify
    };
    let hashed = specifications.iter().filter(|one| match &one.requirement {
        UnresolvedRequirement::Named(named) => !BROUGHT.contains(&named.name),
        UnresolvedRequirement::Unnamed(_) => true,
    });
    let hasher = HashStrategy::from_requirements(
        hashed.map(|one| (&one.requirement, one.hashes.as_slice())),
        constraints
            .iter()
            .map(|constraint| (constraint, &[] as &[String])),
        Some(&environment),
        mode,
    );
    let hasher = hasher.map_err(|error| EnvironmentError::Unresolvable(error.to_string()))?;

    let python = &platform.markers.python_full_version().version;
    let requires_python = RequiresPython::greater_than_equal_version(python);
    let python_requirement =
        PythonRequirement::from_marker_environment(&platform.markers, requires_python);
    let mut pinned: HashMap<PackageName, Vec<Version>> = HashMap::new();
    for requirement in requirements.iter().chain(&constraints) {
        if let RequirementSource::Registry { specifier, .. } = &requirement.source
            && let [one] = specifier.as_ref()
            && matches!(one.operator(), Operator::Equal | Operator::ExactEqual)
        {
            pinned
                .entry(requirement.name.clone())
                .or_default()
                .push(one.version().clone());
        }
    }
    let capabilities = IndexCapabilities::default();
    let git = GitResolver::default();
    let provider = Provider {
        indexes,
        platform,
        hasher: &hasher,
        pinned,
        capabilities: &capabilities,
        git: &git,
        requests: tokio::sync::Semaphore::new(8),
    };
    let manifest = Manifest::new(
        requirements,
        Constraints::from_requirements(constraints.into_iter()),
        Overrides::default(),
        BROUGHT.iter().cloned().collect::<Excludes>(),
        Preferences::default(),
        None,
        Default::default(),
        Exclusions::default(),
        Vec::new(),
    );
    let mut prerelease = Prerelease::default();
    if wanted.pre {
        prerelease.global = PrereleaseMode::Allow;
    }
    let options = OptionsBuilder::new()
        .prerelease(prerelease)
        .build_options(BuildOptions::new(NoBinary::None, NoBuild::All))
        .build();
    let resolver = Resolver::new_custom_io(
        manifest,
        options,
        &hasher,
        ResolverEnvironment::specific(environment),
        &platform.markers,
        None,
        &python_requirement,
        Conflicts::empty(),
        &InMemoryIndex::default(),
        &git,
        &capabilities,
        &indexes
            .map(|indexes| indexes.locations.clone())
            .unwrap_or_default(),
        provider,
        installed.clone(),
    );
    let output = resolver.resolve().await.map_err(explained)?;
    let resolution = Resolution::from(output);
    if resolution.len() > MAX_PACKAGES {
        return Err(EnvironmentError::TooMuch {
            what: "the requirements, with all that these need".to_owned(),
            limit: MAX_PACKAGES as u64,
            unit: "packages",
        });
    }
    notes.extend(resolution.diagnostics().iter().map(|one| {
        use uv_distribution_types::Diagnostic as _;
        one.message()
    }));
    let mut packages = resolution
        .distributions()
        .filter_map(|one| locked(one, platform, &hasher).transpose())
        .collect::<Result<Vec<_>, _>>()?;
    packages.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Resolved { packages, notes })
}

/// A requirement's name, which one that is an address has in its file name.
fn named(requirement: &UnresolvedRequirement) -> Result<Requirement, EnvironmentError> {
    match requirement {
        UnresolvedRequirement::Named(named) => Ok(named.clone()),
        UnresolvedRequirement::Unnamed(unnamed) => {
            let file = unnamed
                .url
                .verbatim
                .raw()
                .path()
                .rsplit('/')
                .next()
                .unwrap_or_default();
            let wheel = WheelFilename::from_str(file).map_err(|error| {
                EnvironmentError::Unresolvable(format!("{unnamed} is no wheel: {error}"))
            })?;
            let named = uv_pep508::Requirement {
                name: wheel.name,
                extras: unnamed.extras.clone(),
                version_or_url: Some(uv_pep508::VersionOrUrl::Url(unnamed.url.clone())),
                marker: unnamed.marker,
                origin: unnamed.origin.clone(),
            };
            let named = RequirementsTxtRequirement::Named(named);
            match UnresolvedRequirementSpecification::from(named).requirement {
                UnresolvedRequirement::Named(named) => Ok(named),
                UnresolvedRequirement::Unnamed(unnamed) => Err(EnvironmentError::Unresolvable(
                    format!("{unnamed} has no name"),
                )),
            }
        }
    }
}

/// The resolver's error, in its words.
fn explained(error: ResolveError) -> EnvironmentError {
    use uv_errors::Hint as _;
    let mut text = match &error {
        ResolveError::NoSolution(error) => error.to_string(),
        other => chain(other),
    };
    for hint in error.hints() {
        text.push_str(&format!("\nhint: {hint}"));
    }
    if is_disk_full(&error) {
        return EnvironmentError::Host(text);
    }
    match error {
        ResolveError::Client(_) | ResolveError::Distribution(_) => EnvironmentError::Index(text),
        _ => EnvironmentError::Unresolvable(text),
    }
}

/// What the lock says of a package; `None` for one that the image has.
fn locked(
    resolved: &ResolvedDist,
    platform: &PythonPlatform,
    hasher: &HashStrategy,
) -> Result<Option<LockedPackage>, EnvironmentError> {
    let ResolvedDist::Installable { dist, version } = resolved else {
        return Ok(None);
    };
    let name = dist.name().clone();
    let unusable = |problem: &str| EnvironmentError::Package {
        package: name.to_string(),
        problem: problem.to_owned(),
    };
    let mut package = LockedPackage::named(name.to_string());
    package.version = version.as_ref().map(ToString::to_string);
    match &**dist {
        Dist::Built(BuiltDist::Registry(registry)) => {
            for wheel in &registry.wheels {
                let digests = wheel.file.hashes.as_slice();
                let policy = hasher.get_package(&name, &wheel.filename.version);
                if platform.fit(&wheel.filename).is_none()
                    || (policy.requires_validation()
                        && !digests.is_empty()
                        && !policy.matches(digests))
                {
                    continue;
                }
                let url = wheel.file.url.to_url();
                let url = url.map_err(|error| unusable(&error.to_string()))?;
                let expected: Vec<&HashDigest> = if digests.is_empty() {
                    policy.digests().iter().collect()
                } else {
                    digests.iter().collect()
                };
                package.wheels.push(LockedWheel {
                    name: wheel.filename.to_string(),
                    url: without_user(&url),
                    size: wheel.file.size,
                    hashes: hashes(expected.into_iter()),
                });
            }
            package.index = registry
                .wheels
                .first()
                .map(|wheel| without_user(wheel.index.url()));
        }
        Dist::Built(BuiltDist::DirectUrl(wheel)) => {
            let policy = hasher.get_url(&wheel.location);
            package.version = Some(wheel.filename.version.to_string());
            package.archive = Some(Archive {
                url: without_user(&wheel.location),
                size: wheel.size,
                hashes: hashes(policy.digests().iter()),
            });
        }
        _ => return Err(unusable("it would have to be built from source")),
    }
    Ok(Some(package))
}

fn hashes<'a>(digests: impl Iterator<Item = &'a HashDigest>) -> BTreeMap<String, String> {
    digests
        .map(|digest| (digest.algorithm().to_string(), digest.digest.to_string()))
        .collect()
}

fn without_user(url: &url::Url) -> String {
    let mut url = url.clone();
    // Fails only for addresses that have no place for a user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    url.to_string()
}

/// What the base image has.
#[derive(Debug, Clone)]
pub(crate) struct Installed(Arc<Vec<InstalledDist>>);

impl Installed {
    /// Reads the image's folder of packages.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn below(packages: &Path) -> Result<Self, EnvironmentError> {
        let failed =
            |error: String| EnvironmentError::Host(format!("the base image's packages: {error}"));
        let mut found = Vec::new();
        let entries = std::fs::read_dir(packages).map_err(|error| failed(error.to_string()))?;
        for entry in entries {
            let path = entry.map_err(|error| failed(error.to_string()))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "dist-info")
            {
                let one = InstalledDist::try_from_path(&path)
                    .map_err(|error| failed(error.to_string()))?;
                found.extend(one);
            }
        }
        Ok(Self(Arc::new(found)))
    }

    /// Whether there is a package by this name.
    pub(crate) fn has(&self, name: &PackageName) -> bool {
        self.0.iter().any(|one| one.name() == name)
    }
}

impl InstalledPackagesProvider for Installed {
    fn iter(&self) -> impl Iterator<Item = &InstalledDist> {
        self.0.iter()
    }

    fn get_packages(&self, name: &PackageName) -> Vec<&InstalledDist> {
        self.0.iter().filter(|one| one.name() == name).collect()
    }
}

/// Answers what the resolver asks.
struct Provider<'a> {
    indexes: Option<&'a Indexes>,
    platform: &'a PythonPlatform,
    hasher: &'a HashStrategy,
    /// Versions that requirements name exactly: these may have been withdrawn (PEP 592).
    pinned: HashMap<PackageName, Vec<Version>>,
    capabilities: &'a IndexCapabilities,
    git: &'a GitResolver,
    requests: tokio::sync::Semaphore,
}

impl Provider<'_> {
    fn versions(
        &self,
        name: &PackageName,
        index: &IndexUrl,
        metadata: MetadataFormat,
    ) -> FlatDistributions {
        let mut found: BTreeMap<Version, PrioritizedDist> = BTreeMap::new();
        let files: Vec<(DistFilename, File)> = match metadata {
            MetadataFormat::Simple(metadata) => uv_client::OwnedArchive::deserialize(&metadata)
                .into_iter()
                .flat_map(|one| one.files.all(name).collect::<Vec<_>>())
                .collect(),
            MetadataFormat::Flat(entries) => entries
                .into_iter()
                .map(|entry| {
                    let (filename, file, _) = entry.into_parts();
                    (filename, file)
                })
                .collect(),
        };
        for (filename, file) in files {
            let digests = file.hashes.as_slice().to_vec();
            match filename {
                DistFilename::WheelFilename(filename) => {
                    let compatibility = self.wheel(&filename, &file);
                    let version = filename.version.clone();
                    let wheel = RegistryBuiltWheel {
                        filename,
                        file: Box::new(file),
                        index: index.clone(),
                        size_is_authoritative: false,
                    };
                    found
                        .entry(version)
                        .or_default()
                        .insert_built(wheel, digests, compatibility);
                }
                DistFilename::SourceDistFilename(filename) => {
                    let SourceDistFilename {
                        name,
                        version,
                        extension,
                    } = filename;
                    let source = RegistrySourceDist {
                        name,
                        version: version.clone(),
                        ext: extension,
                        file: Box::new(file),
                        index: index.clone(),
                        wheels: Vec::new(),
                        size_is_authoritative: false,
                    };
                    let compatibility =
                        SourceDistCompatibility::Incompatible(IncompatibleSource::NoBuild);
                    found
                        .entry(version)
                        .or_default()
                        .insert_source(source, digests, compatibility);
                }
            }
        }
        found.into()
    }

    fn wheel(&self, filename: &WheelFilename, file: &File) -> WheelCompatibility {
        let is_pinned = || {
            self.pinned
                .get(&filename.name)
                .is_some_and(|versions| versions.contains(&filename.version))
        };
        if let Some(yanked) = &file.yanked
            && yanked.is_yanked()
            && !is_pinned()
        {
            return WheelCompatibility::Incompatible(IncompatibleWheel::Yanked((**yanked).clone()));
        }
        let python = &self.platform.markers.python_full_version().version;
        if let Some(specifiers) = &file.requires_python
            && !specifiers.contains(python)
        {
            return WheelCompatibility::Incompatible(IncompatibleWheel::RequiresPython(
                (**specifiers).clone(),
                PythonRequirementKind::Target,
            ));
        }
        let priority = match self.platform.fit(filename) {
            Some(Fit::Pure) => 2,
            Some(Fit::Native) => 1,
            None => {
                return WheelCompatibility::Incompatible(IncompatibleWheel::Tag(
                    IncompatibleTag::Platform,
                ));
            }
        };
        let policy = self.hasher.get_package(&filename.name, &filename.version);
        let digests = file.hashes.as_slice();
        let hash = if !policy.requires_validation() || policy.matches(digests) {
            HashComparison::Matched
        } else if digests.is_empty() {
            HashComparison::Missing
        } else {
            HashComparison::Mismatched
        };
        let priority = TagPriority::try_from(priority).ok();
        WheelCompatibility::Compatible(hash, priority, filename.build_tag().cloned())
    }
}

impl ResolverProvider for Provider<'_> {
    async fn get_package_versions<'io>(
        &'io self,
        name: &'io PackageName,
        index: Option<&'io IndexMetadata>,
    ) -> PackageVersionsResult {
        let Some(indexes) = self.indexes else {
            return Ok(VersionsResponse::NoIndex);
        };
        let found = indexes.client.simple_detail(
            name,
            index.map(IndexMetadataRef::from),
            self.capabilities,
            &self.requests,
        );
        match found.await {
            Ok(found) => Ok(VersionsResponse::Found(
                found
                    .into_iter()
                    .map(|(index, metadata)| VersionMap::from(self.versions(name, index, metadata)))
                    .collect(),
            )),
            Err(error) => match error.kind() {
                uv_client::ErrorKind::RemotePackageNotFound(_) => Ok(VersionsResponse::NotFound),
                uv_client::ErrorKind::NoIndex(_) => Ok(VersionsResponse::NoIndex),
                _ => Err(error),
            },
        }
    }

    async fn get_or_build_wheel_metadata<'io>(&'io self, dist: &'io Dist) -> WheelMetadataResult {
        let Dist::Built(built) = dist else {
            return Err(uv_distribution::Error::NoBuildPackage(dist.name().clone()));
        };
        let Some(indexes) = self.indexes else {
            return Err(uv_distribution::Error::NoBuildPackage(dist.name().clone()));
        };
        let client = &indexes.client;
        let metadata = client.wheel_metadata(built, self.git, self.capabilities, None);
        Ok(match metadata.await {
            Ok(metadata) => MetadataResponse::Found(ArchiveMetadata::from_metadata23(metadata)),
            Err(error) => MetadataResponse::Error(
                Box::new(RequestedDist::Installable(dist.clone())),
                Arc::new(error.into()),
            ),
        })
    }

    async fn get_installed_metadata<'io>(
        &'io self,
        dist: &'io InstalledDist,
    ) -> WheelMetadataResult {
        match dist.read_metadata() {
            Ok(metadata) => Ok(MetadataResponse::Found(ArchiveMetadata::from_metadata23(
                metadata.clone(),
            ))),
            Err(error) => Err(uv_distribution::Error::CacheRead(std::io::Error::other(
                error.to_string(),
            ))),
        }
    }

    fn with_reporter(self, _: Arc<dyn uv_distribution::Reporter>) -> Self {
        self
    }
}
