//! Memory that comes from images: its bounds, its limits, and that nothing of one image gets into another's instances.

use std::sync::Arc;
use std::time::Duration;

use flowcell_sandbox::{
    Destination, Environment, Fault, Image, ImageError, Instance, Limits, Mode, Owner,
    SandboxError, Slice, SliceLimits, StoreError,
};

use crate::runner::{
    DATA, Do, KEPT, KEY, PROGRAM, RESUMED, SHELL, SUSPEND, WASM_PAGE, act, environment, over,
    owner, read, start, start_with, write,
};
use crate::{SANDBOX, limits, short};

/// Bytes of the runner's memory at its start.
const INITIAL: u64 = 2 * WASM_PAGE;

fn destination(folder: &tempfile::TempDir, name: &str, owner: Owner) -> Destination {
    Destination {
        path: folder.path().join(name),
        key: Arc::clone(&KEY),
        owner,
        made_from: "flow".to_owned(),
        replaces: None,
        limit: 16 << 20,
        lasting: false,
    }
}

/// An image for all sessions of the workspace whose memory has these bytes.
async fn image_with(folder: &tempfile::TempDir, name: &str, bytes: &[u8], pages: u32) -> Image {
    let mut instance = start(None).await;
    assert!(act(&mut instance, Do::Grow(pages)).await.unwrap());
    write(&mut instance, KEPT, bytes).await;
    let destination = destination(folder, name, owner(""));
    instance.store(&destination).await.unwrap().image
}

fn is_out_of_bounds(result: Result<bool, Fault>) -> bool {
    matches!(&result, Err(Fault::Trap { reason }) if reason.contains("out of bounds"))
}

#[tokio::test]
async fn an_instance_has_the_bases_memory_and_its_own_changes() {
    let mut one = start(None).await;
    let mut other = start(None).await;
    assert_eq!(one.mode(), Some(Mode::Base));
    assert_eq!(&read(&mut one, DATA).await, b"the data");
    write(&mut one, DATA, b"changed!").await;
    assert_eq!(&read(&mut one, DATA).await, b"changed!");
    assert_eq!(&read(&mut other, DATA).await, b"the data");
    assert_eq!(&read(&mut start(None).await, DATA).await, b"the data");
    // Where the system does not say, it is 0.
    assert!(one.private_memory() <= INITIAL);
}

#[tokio::test]
async fn access_beyond_the_memory_traps() {
    let folder = tempfile::tempdir().unwrap();
    let image = image_with(&folder, "image", b"image", 3).await;
    let spread = image_with(&folder, "spread", b"image", 3).await;
    spread.spread(folder.path(), &owner("")).unwrap();
    let end = |pages: u64| u32::try_from(pages * WASM_PAGE).unwrap();
    for (image, mode, pages) in [
        (None, Mode::Base, 2),
        (Some(&image), Mode::Copied, 5),
        (Some(&spread), Mode::Mapped, 5),
    ] {
        let end = end(pages);
        for (inside, beyond) in [
            (Do::Load(end - 1), Do::Load(end)),
            (Do::Store(end - 1), Do::Store(end)),
            // Partly inside.
            (Do::Store8(end - 8), Do::Store8(end - 7)),
            (Do::Store8(end - 8), Do::Store8(end - 1)),
            (Do::Fill(end - 65536), Do::Fill(end - 65535)),
            (Do::Nothing, Do::Load(end + 65535)),
            (Do::Nothing, Do::Load(u32::MAX)),
            // Across 4 GiB: the end of the address space is no beginning.
            (Do::Nothing, Do::Store8(u32::MAX)),
            (Do::Nothing, Do::LoadBeyond(0)),
            (Do::Nothing, Do::LoadBeyond(1)),
            (Do::Nothing, Do::LoadBeyond(u32::MAX)),
            (Do::Nothing, Do::Load8Beyond(0)),
            (Do::Nothing, Do::Load8Beyond(8)),
            (Do::Nothing, Do::Load8Beyond(u32::MAX)),
        ] {
            let mut instance = start(image).await;
            assert_eq!(instance.mode(), Some(mode));
            assert!(act(&mut instance, inside).await.unwrap(), "{inside:?}");
            let ended = act(&mut instance, beyond).await;
            assert!(is_out_of_bounds(ended), "{mode:?} {beyond:?}");
            assert!(instance.is_broken());
        }
    }
}

#[tokio::test]
async fn memory_grows_after_a_start_from_an_image_and_is_zero() {
    let folder = tempfile::tempdir().unwrap();
    let image = image_with(&folder, "image", b"image", 3).await;
    assert_eq!(image.memory(), 5 * WASM_PAGE);
    for image in [None, Some(&image)] {
        let mut instance = start(image).await;
        let end = u32::try_from(image.map_or(INITIAL, Image::memory)).unwrap();
        assert!(act(&mut instance, Do::Grow(7)).await.unwrap());
        assert!(act(&mut instance, Do::IsZeroFrom(end)).await.unwrap());
        let last = end + 7 * 65536 - 1;
        assert!(act(&mut instance, Do::Store(last)).await.unwrap());
        assert!(is_out_of_bounds(
            act(&mut instance, Do::Store(last + 1)).await
        ));
    }
}

#[tokio::test]
async fn limits_of_memory_hold() {
    let folder = tempfile::tempdir().unwrap();
    let image = image_with(&folder, "image", b"image", 3).await;
    let most = |pages: usize| Limits {
        memory: pages << 16,
        ..limits()
    };
    for (image, rest) in [(None, 4), (Some(&image), 1)] {
        let mut instance = start_with(image, most(6)).await.unwrap();
        assert!(act(&mut instance, Do::Grow(rest)).await.unwrap());
        // Its refusal is the guest's to handle; that it was refused is remembered.
        assert!(!act(&mut instance, Do::Grow(1)).await.unwrap());
        let mut instance = start_with(image, most(6)).await.unwrap();
        assert!(!act(&mut instance, Do::Grow(65536)).await.unwrap());
        assert!(!act(&mut instance, Do::Grow(u32::MAX)).await.unwrap());
    }
    let refused = start_with(Some(&image), most(4)).await.unwrap_err();
    assert!(
        matches!(
            refused,
            SandboxError::Image(ImageError::TooLarge { needed, limit }) if (needed, limit) == (5 * WASM_PAGE, 4 * WASM_PAGE)
        ),
        "{refused}"
    );
    let refused = start_with(None, most(1)).await.unwrap_err();
    assert!(matches!(
        refused,
        SandboxError::Image(ImageError::TooLarge { .. })
    ));
}

#[tokio::test]
async fn a_slice_is_charged_for_what_an_image_takes() {
    let folder = tempfile::tempdir().unwrap();
    let image = image_with(&folder, "image", b"image", 3).await;
    let slice = Slice::new(
        SliceLimits {
            memory: 8 * WASM_PAGE,
            ..SliceLimits::UNLIMITED
        },
        None,
    );
    let environment = environment("one", limits(), Arc::clone(&slice));
    let begin = async |image| Instance::start(&SANDBOX, &PROGRAM, &environment, image).await;
    let mut first = begin(Some(&image)).await.unwrap();
    assert_eq!(slice.usage().memory, 5 * WASM_PAGE);
    let refused = begin(Some(&image)).await.unwrap_err();
    assert!(matches!(refused, SandboxError::NoRoom(_)), "{refused}");
    let second = begin(None).await.unwrap();
    assert_eq!(slice.usage().memory, 7 * WASM_PAGE);
    assert!(act(&mut first, Do::Grow(1)).await.unwrap());
    assert!(!act(&mut first, Do::Grow(1)).await.unwrap());
    drop(second);
    assert!(act(&mut first, Do::Grow(1)).await.unwrap());
    assert_eq!(slice.usage().memory, 7 * WASM_PAGE);
    drop(first);
    assert_eq!((slice.usage().memory, slice.usage().instances), (0, 0));
}

#[tokio::test]
async fn what_never_ends_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let image = image_with(&folder, "image", b"image", 0).await;
    let cpu = Limits {
        cpu_time: Duration::from_millis(100),
        ..limits()
    };
    for image in [None, Some(&image)] {
        let fault = act(&mut start_with(image, short()).await.unwrap(), Do::Loop)
            .await
            .unwrap_err();
        assert!(matches!(fault, Fault::Timeout { .. }), "{fault}");
        let fault = act(&mut start_with(image, cpu.clone()).await.unwrap(), Do::Loop)
            .await
            .unwrap_err();
        assert!(matches!(fault, Fault::CpuTime { .. }), "{fault}");
        let fault = act(&mut start(image).await, Do::Recurse).await.unwrap_err();
        assert!(matches!(fault, Fault::StackOverflow), "{fault}");
        let fault = act(&mut start(image).await, Do::Trap).await.unwrap_err();
        assert!(matches!(fault, Fault::Trap { .. }), "{fault}");
        // Dropped halfway, at an epoch.
        let mut instance = start(image).await;
        let dropped = tokio::time::timeout(Duration::from_millis(30), act(&mut instance, Do::Loop));
        dropped.await.unwrap_err();
        assert!(instance.is_broken());
        drop(instance);
    }
    assert_eq!(
        &read(&mut start(Some(&image)).await, KEPT).await[..5],
        b"image"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn instances_that_start_together_each_have_their_own_images_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut images = Vec::new();
    for number in 0..6_u64 {
        let name = format!("image-{number}");
        let image = image_with(&folder, &name, &number.to_le_bytes(), number as u32).await;
        if number % 3 == 0 {
            image.spread(folder.path(), &owner("")).unwrap();
        }
        images.push(image);
    }
    let mut memory = SHELL.memory.clone();
    memory[KEPT as usize] = 99;
    let base = over("other", &memory);
    let starts: Vec<_> = (0..120_u64)
        .map(|task| {
            let (image, base) = (images[task as usize % 6].clone(), Arc::clone(&base));
            tokio::spawn(async move {
                let environment = environment("one", limits(), Slice::unlimited());
                for round in 0..4_u64 {
                    let number = task % 6;
                    let mut instance =
                        Instance::start(&SANDBOX, &PROGRAM, &environment, Some(&image))
                            .await
                            .unwrap();
                    assert_eq!(read(&mut instance, KEPT).await, number.to_le_bytes());
                    write(&mut instance, KEPT, &(task << 8 | round).to_le_bytes()).await;
                    let mut other = Instance::start(&SANDBOX, &base, &environment, None)
                        .await
                        .unwrap();
                    assert_eq!(read(&mut other, KEPT).await, [99, 0, 0, 0, 0, 0, 0, 0]);
                    tokio::task::yield_now().await;
                    assert_eq!(
                        read(&mut instance, KEPT).await,
                        (task << 8 | round).to_le_bytes()
                    );
                }
            })
        })
        .collect();
    for start in starts {
        start.await.unwrap();
    }
}

#[tokio::test]
async fn a_stored_memory_is_brought_back() {
    let folder = tempfile::tempdir().unwrap();
    let image = image_with(&folder, "image", b"image", 1).await;
    for (name, spread) in [("copied", false), ("mapped", true)] {
        if spread {
            image.spread(folder.path(), &owner("one")).unwrap();
        }
        let mut instance = start(Some(&image)).await;
        assert_eq!(
            read(&mut instance, RESUMED).await[..2],
            [2, 2],
            "it is a copy"
        );
        write(&mut instance, KEPT + 100, b"mine").await;
        assert!(act(&mut instance, Do::Grow(2)).await.unwrap());
        write(&mut instance, 4 * WASM_PAGE, b"far").await;
        let stored = instance
            .store(&destination(&folder, name, owner("one")))
            .await
            .unwrap();
        assert!(instance.is_broken(), "it is at its end");
        assert!(
            stored.changed <= 8 * 4096 && stored.size < 4096,
            "{stored:?}"
        );

        // The file says the same as the image that the store gave.
        let opened = image
            .with(&folder.path().join(name), &KEY, &owner("one"), 1 << 20)
            .unwrap();
        assert_eq!(opened.identity(), stored.image.identity());
        for below in [&stored.image, &opened] {
            let mut again = start(Some(below)).await;
            assert_eq!(
                read(&mut again, RESUMED).await[..2],
                [3, 1],
                "it is the only one"
            );
            assert_eq!(&read(&mut again, KEPT).await[..5], b"image");
            assert_eq!(&read(&mut again, KEPT + 100).await[..4], b"mine");
            assert_eq!(&read(&mut again, 4 * WASM_PAGE).await[..3], b"far");
        }

        // A second time lies over the same image as the first, not over the first.
        let mut again = start(Some(&opened)).await;
        write(&mut again, KEPT + 100, b"once").await;
        let second = again
            .store(&destination(&folder, "second", owner("one")))
            .await
            .unwrap();
        assert_eq!(second.image.below().unwrap().identity(), image.identity());
        let mut again = start(Some(&second.image)).await;
        assert_eq!(&read(&mut again, KEPT + 100).await[..4], b"once");
        assert_eq!(&read(&mut again, 4 * WASM_PAGE).await[..3], b"far");
    }
}

#[tokio::test]
async fn an_instance_that_cannot_be_stored_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let to = destination(&folder, "file", owner("one"));
    let mut instance = start(None).await;
    write(&mut instance, KEPT, b"before").await;

    write(&mut instance, SUSPEND, &[3]).await;
    let busy = instance.store(&to).await.unwrap_err();
    assert!(
        matches!(&busy, StoreError::Busy(why) if why == &["fine"]),
        "{busy}"
    );
    assert!(!instance.is_broken());
    write(&mut instance, SUSPEND, &[0]).await;

    act(&mut instance, Do::ChangeGlobal(5)).await.unwrap();
    let busy = instance.store(&to).await.unwrap_err();
    assert!(
        busy.to_string()
            .contains("in the middle of something (global 1)"),
        "{busy}"
    );
    act(&mut instance, Do::ChangeGlobal(0)).await.unwrap();

    let small = Destination {
        limit: 4095,
        ..to.clone()
    };
    let large = instance.store(&small).await.unwrap_err();
    assert!(
        matches!(
            large,
            StoreError::TooLarge {
                size: 4096..,
                limit: 4095
            }
        ),
        "{large}"
    );

    let nowhere = Destination {
        path: folder.path().join("gone/file"),
        ..to.clone()
    };
    let failed = instance.store(&nowhere).await.unwrap_err();
    assert!(matches!(failed, StoreError::Io { .. }), "{failed}");
    let occupied = Destination {
        path: folder.path().join("folder"),
        ..to.clone()
    };
    std::fs::create_dir(&occupied.path).unwrap();
    let failed = instance.store(&occupied).await.unwrap_err();
    assert!(matches!(failed, StoreError::Io { .. }), "{failed}");

    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing is left over"
    );
    assert_eq!(&read(&mut instance, KEPT).await[..6], b"before");
    let stored = instance.store(&to).await.unwrap();
    assert_eq!(
        &read(&mut start(Some(&stored.image)).await, KEPT).await[..6],
        b"before"
    );
}

#[tokio::test]
async fn a_guest_that_fails_while_it_is_stored_is_broken_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let to = destination(&folder, "file", owner("one"));
    for how in [1, 2] {
        let limits = Limits {
            cpu_time: Duration::from_millis(100),
            ..limits()
        };
        let mut instance = start_with(None, limits).await.unwrap();
        write(&mut instance, SUSPEND, &[how]).await;
        let failed = instance.store(&to).await.unwrap_err();
        assert!(matches!(failed, StoreError::Failed(_)), "{failed}");
        assert!(instance.is_broken());
        assert!(!to.path.exists());
    }
}

#[tokio::test]
async fn an_image_is_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut instance = start(None).await;
    let stored = instance
        .store(&destination(&folder, "file", owner("one")))
        .await
        .unwrap();
    let for_all = image_with(&folder, "for-all", b"", 0).await;
    // Whoever has it in hand, it is refused where it is laid over the memory.
    let start_as = async |image: &Image, workspace: &str, session: &str| {
        let owner = Owner {
            workspace: workspace.to_owned(),
            session: Some(session.to_owned()),
        };
        let environment = Environment::new(Vec::new(), Vec::new(), limits()).with_owner(owner);
        Instance::start(&SANDBOX, &PROGRAM, &environment, Some(image))
            .await
            .map(|_| ())
    };
    for spread in [false, true] {
        if spread {
            for_all.spread(folder.path(), &owner("one")).unwrap();
            stored.image.spread(folder.path(), &owner("one")).unwrap();
        }
        start_as(&stored.image, "workspace", "one").await.unwrap();
        start_as(&for_all, "workspace", "two").await.unwrap();
        for (image, workspace, session, what) in [
            (&stored.image, "workspace", "two", "session"),
            (&stored.image, "other", "one", "workspace"),
            (&for_all, "other", "one", "workspace"),
            (&for_all, "", "", "workspace"),
        ] {
            let refused = start_as(image, workspace, session).await.unwrap_err();
            assert!(
                matches!(refused, SandboxError::Image(ImageError::Foreign(found)) if found == what),
                "{refused}"
            );
        }
    }
    stored.image.fold();
    let refused = stored
        .image
        .spread(folder.path(), &owner("two"))
        .unwrap_err();
    assert!(
        matches!(refused, ImageError::Foreign("session")),
        "{refused}"
    );
}

#[tokio::test]
async fn a_component_that_cannot_have_images_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let wasm = crate::tool("(call $answer (i32.const 16) (i32.const 6))");
    let program = crate::program(&wasm).unwrap();
    assert!(program.base().is_none());
    let environment = environment("one", limits(), Slice::unlimited());
    let mut instance = Instance::start(&SANDBOX, &program, &environment, None)
        .await
        .unwrap();
    assert_eq!((instance.mode(), instance.private_memory()), (None, 0));
    let refused = instance
        .store(&destination(&folder, "file", owner("one")))
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::Ordinary), "{refused}");
    assert!(!instance.is_broken());
}
