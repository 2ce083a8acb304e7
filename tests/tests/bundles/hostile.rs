//! What registries have that is no bundle, or pretends to be one.

use serde_json::{Value, json};

use crate::registry::{Registry, digest};
use crate::{at, fails, json_at};

const TREE: &str = "application/vnd.flowcell.bundle.tree.v1.tar+zstd";
const WASM: &str = "application/wasm";

/// Pulls it, and checks that it fails for this reason and leaves no name.
#[track_caller]
fn refused(image: &str, words: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let ended = at(home.path(), &["bundle", "pull", image]);
    fails(&ended, &[image]);
    fails(&ended, words);
    assert_eq!(
        json_at(home.path(), &["bundle", "list"]),
        json!({"bundles": []})
    );
}

#[test]
fn what_is_not_there() {
    let registry = Registry::start();
    let image = format!("{}/team/base:1.0", registry.host);
    refused(&image, &["no such image or tag"]);
    let home = tempfile::tempdir().unwrap();
    let ended = at(home.path(), &["bundle", "inspect", &image]);
    fails(&ended, &["no such image or tag"]);
    let ended = at(home.path(), &["bundle", "push", "gone:1", &image]);
    fails(&ended, &["there is no bundle gone:1"]);
    for wrong in ["team/base:1.0", "base", "127.0.0.1:1/Base"] {
        let ended = at(home.path(), &["bundle", "pull", wrong]);
        assert_eq!(ended.code, Some(2), "{ended:#?}");
        assert!(ended.stderr.contains(wrong), "{ended:#?}");
    }
}

pub(crate) fn image_of(registry: &Registry, repository: &str, config: &str, kind: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": kind,
        "config": registry.put_blob(repository, config, b"{}"),
        "layers": [registry.put_blob(repository, "application/vnd.docker.image.rootfs.diff.tar.gzip", b"x")],
    })
}

/// A Docker image in a registry; its name.
pub(crate) fn docker_image(registry: &Registry) -> String {
    let v2 = "application/vnd.docker.distribution.manifest.v2+json";
    let image = image_of(
        registry,
        "a",
        "application/vnd.docker.container.image.v1+json",
        v2,
    );
    registry.put_manifest("a:docker", &image)
}

#[test]
fn what_is_no_bundle_says_what_it_is() {
    let registry = Registry::start();
    let docker = |config: &str, kind: &str| image_of(&registry, "a", config, kind);
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let image = docker_image(&registry);
    refused(&image, &["a Docker image", "no flowcell bundle"]);
    let home = tempfile::tempdir().unwrap();
    let found = json_at(home.path(), &["bundle", "inspect", &image]);
    assert_eq!(found["is_bundle"], false);

    let image = docker("application/vnd.oci.image.config.v1+json", oci);
    refused(&registry.put_manifest("a:oci", &image), &["a Docker image"]);
    let image = docker("application/vnd.wasm.config.v0+json", oci);
    refused(
        &registry.put_manifest("a:wasm", &image),
        &["a Wasm component without a bundle"],
    );
    let image = docker("application/vnd.example.chart.v1+json", oci);
    refused(
        &registry.put_manifest("a:chart", &image),
        &["vnd.example.chart"],
    );
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [],
    });
    refused(
        &registry.put_manifest("a:index", &index),
        &["an index of images"],
    );
}

fn bundle(components: &Value, trees: &Value) -> Value {
    json!({
        "schema": 1,
        "name": "evil",
        "version": "1",
        "components": components,
        "trees": trees,
        "python": null,
    })
}

fn component(layer: &Value) -> Value {
    json!({
        "name": "tool",
        "kind": "tool",
        "digest": layer["digest"],
        "size": layer["size"],
        "tools": [],
        "start": "ordinary",
    })
}

#[test]
fn a_manifest_is_a_strangers() {
    let registry = Registry::start();
    let wasm = registry.put_blob("a", WASM, b"\0asm");
    let tree = registry.put_blob("a", TREE, b"archive");
    let good = component(&wasm);
    let with = |key: &str, value: Value| {
        let mut changed = good.clone();
        changed[key] = value;
        json!([changed])
    };
    let mount = |mount: &str| json!([{"mount": mount, "digest": tree["digest"], "size": 7}]);
    let none = json!([]);
    let mut future = bundle(&none, &none);
    future["schema"] = json!(2);
    let mut more = bundle(&none, &none);
    more["hooks"] = json!(["rm -rf /"]);
    let mut path = bundle(&none, &none);
    path["name"] = json!("../../etc");
    let image = json!({"image": {"shell": digest(b"s"), "base": digest(b"b"), "memory": 1 << 16, "pages": "0".repeat(64)}});
    let many: Vec<Value> = (0..40).map(|_| good.clone()).collect();
    let large = "x".repeat(2 << 20);
    let mut padded = bundle(&none, &none);
    padded["version"] = json!(large);
    for (number, (manifest, words)) in [
        (future, "format 2"),
        (more, "unknown field"),
        (path, "name:version"),
        (padded, "1048576 are allowed"),
        (
            bundle(&with("digest", json!(digest(b"of another"))), &none),
            "none of its layers",
        ),
        (
            bundle(&with("digest", tree["digest"].clone()), &none),
            "of the type",
        ),
        (bundle(&with("size", json!(5)), &none), "4 bytes, and 5"),
        (
            bundle(&with("size", json!(1_u64 << 40)), &none),
            "are allowed",
        ),
        (
            bundle(&with("kind", json!("shell")), &none),
            "unknown variant",
        ),
        (
            bundle(&with("name", json!("../tool")), &none),
            "no name of a component",
        ),
        (
            bundle(&with("start", image.clone()), &none),
            "the tool tool has a memory image",
        ),
        (bundle(&json!(many), &none), "40 components"),
        (bundle(&none, &mount("/flow")), "hide /flow"),
        (bundle(&none, &mount("/data/../flow")), "no place for files"),
        (bundle(&none, &mount("/data")), "no tree of a bundle"),
    ]
    .into_iter()
    .enumerate()
    {
        let layers = [wasm.clone(), tree.clone()];
        let image = registry.put_bundle(&format!("a:{number}"), &manifest, &layers);
        refused(&image, &[words]);
    }
    // A runner whose image is another's: the layers are there, and nothing of it is known to the store.
    let mut runner = good.clone();
    runner["kind"] = json!("python-runner");
    runner["start"] = image;
    let manifest = bundle(&json!([runner]), &none);
    let image = registry.put_bundle("a:runner", &manifest, std::slice::from_ref(&wasm));
    refused(&image, &["none of its layers"]);

    // What is no component is found when it is first used, by the process that compiles it.
    let image = registry.put_bundle("a:nothing", &bundle(&json!([good]), &none), &[wasm]);
    let home = tempfile::tempdir().unwrap();
    json_at(home.path(), &["bundle", "pull", &image]);
}

/// An archive of one entry whose header is written as it is.
fn archive(name: &[u8], kind: tar::EntryType, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(kind);
    if kind == tar::EntryType::Symlink {
        header.set_link_name("/etc/passwd").unwrap();
    }
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    let mut builder = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    builder.append(&header, content).unwrap();
    builder.into_inner().unwrap().finish().unwrap()
}

/// Five GiB of zeros as an archive of some hundred kilobytes.
fn bomb() -> Vec<u8> {
    const SIZE: u64 = 5 << 30;
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(SIZE);
    header.set_mode(0o644);
    header.set_cksum();
    let mut builder = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    builder
        .append(&header, std::io::Read::take(std::io::repeat(0), SIZE))
        .unwrap();
    builder.into_inner().unwrap().finish().unwrap()
}

#[test]
fn an_archive_is_a_strangers() {
    use tar::EntryType::{Regular, Symlink};

    let registry = Registry::start();
    for (number, (packed, words)) in [
        (
            archive(b"../../../../escaped", Regular, b"evil"),
            "leads out of its folder",
        ),
        (
            archive(b"/escaped", Regular, b"evil"),
            "leads out of its folder",
        ),
        (archive(b"link", Symlink, b""), "no ordinary file"),
        (bomb(), "more than 4294967296 bytes"),
        (b"no archive".to_vec(), "cannot be read"),
    ]
    .into_iter()
    .enumerate()
    {
        let tree = registry.put_blob("a", TREE, &packed);
        let trees = json!([{"mount": "/data", "digest": tree["digest"], "size": packed.len()}]);
        let manifest = bundle(&json!([]), &trees);
        let image = registry.put_bundle(&format!("a:{number}"), &manifest, &[tree]);
        refused(&image, &[words]);
    }
}
