//! Which components can be shells, and why others cannot.

use proptest::prelude::*;

use super::*;

/// A component with one module, which has the exports that a shell needs, and `more`.
fn component(more: &str) -> String {
    nested(more, "")
}

/// The same with `outer` behind the instance of its module.
fn nested(more: &str, outer: &str) -> String {
    format!(
        r#"(component
            (core module $m
                (memory (export "memory") 1)
                (global $changing (mut i32) (i32.const 7))
                (global (mut i64) (i64.const -7))
                (global (mut f32) (f32.const nan))
                (global (mut f64) (f64.const 0.5))
                (global i32 (i32.const 1))
                (func (export "__wasilibc_reset_preopens") (i32.store8 (i32.const 0) (i32.const 1)))
                (func (export "reset_adapter_state") (i32.store8 (i32.const 1) (i32.const 1)))
                (func (export "change") (param i32) (global.set $changing (local.get 0)))
                (func (export "look") (param i32) (result i32) (i32.load8_u (local.get 0)))
                (data (i32.const 16) "ab")
                (data (i32.const 17) "cd")
                {more})
            (core instance $i (instantiate $m))
            (func (export "change") (param "to" s32) (canon lift (core func $i "change")))
            (func (export "look") (param "at" s32) (result s32) (canon lift (core func $i "look")))
            {outer})"#
    )
}

fn shell(text: &str) -> Result<Shell, ShellError> {
    Shell::of(&wat::parse_str(text).unwrap())
}

/// Why it cannot be a shell; an assertion where it can.
fn refused(text: &str) -> String {
    match shell(text) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_has_state_beside_its_memory_is_refused_and_named() {
    let table = r#"(table $t 1 funcref) (elem $e func $f) (func $f) "#;
    for (more, why) in [
        ("(func $s) (start $s)", "module 0 has a start function"),
        (r#"(data "later")"#, "module 0 has a passive segment"),
        ("(memory 1)", "it has several memories"),
        (
            "(global (mut v128) (v128.const i64x2 0 0))",
            "does not begin with a constant",
        ),
        (
            "(global (mut funcref) (ref.null func))",
            "does not begin with a constant",
        ),
        (
            "(global (mut i32) (i32.add (i32.const 1) (i32.const 2)))",
            "does not begin with a constant",
        ),
        (
            "(global $g i32 (i32.const 1)) (global (mut i32) (global.get $g))",
            "does not begin with a constant",
        ),
        (
            r#"(global $g i32 (i32.const 1)) (data (global.get $g) "x")"#,
            "does not begin with a constant",
        ),
        (
            r#"(data (i32.const 65535) "xy")"#,
            "a segment beyond its memory",
        ),
        (
            r#"(data (i32.const -1) "x")"#,
            "a segment beyond its memory",
        ),
        (
            r#"(data (i32.const 65537) "")"#,
            "a segment beyond its memory",
        ),
        (
            "(func (table.set $t (i32.const 0) (ref.null func)))",
            "module 0 uses table.set",
        ),
        (
            "(func (drop (table.grow $t (ref.null func) (i32.const 1))))",
            "module 0 uses table.grow",
        ),
        (
            "(func (table.fill $t (i32.const 0) (ref.null func) (i32.const 1)))",
            "module 0 uses table.fill",
        ),
        (
            "(func (table.copy $t $t (i32.const 0) (i32.const 0) (i32.const 1)))",
            "module 0 uses table.copy",
        ),
        (
            "(func (table.init $t $e (i32.const 0) (i32.const 0) (i32.const 0)))",
            "module 0 uses table.init",
        ),
        ("(func (elem.drop $e))", "module 0 uses elem.drop"),
        (
            r#"(data $d (i32.const 0) "x") (func (data.drop $d))"#,
            "module 0 uses data.drop",
        ),
        (
            r#"(data $d (i32.const 0) "x") (func (memory.init $d (i32.const 0) (i32.const 0) (i32.const 0)))"#,
            "module 0 uses memory.init",
        ),
    ] {
        let why_not = refused(&component(&format!("{table}{more}")));
        assert!(why_not.contains(why), "{more}: {why_not}");
    }
    // What these have in common with the others is no reason.
    assert_eq!(refused(&component(table)), "");
}

#[test]
fn a_memory_of_another_kind_is_refused() {
    let with = |memory: &str| {
        component("").replace(
            r#"(memory (export "memory") 1)"#,
            &format!(r#"(memory (export "memory") {memory})"#),
        )
    };
    assert_eq!(refused(&with("1 1")), "");
    for memory in ["i64 1", "1 2 shared", "4097", "1 (pagesize 1)"] {
        let why = refused(&with(memory));
        assert!(
            why.contains("of a special kind, or too large"),
            "{memory}: {why}"
        );
    }
}

#[test]
fn what_a_shell_needs_must_be_there() {
    let without = |name: &str| component("").replace(&format!(r#"(export "{name}")"#), "");
    for (name, why) in [
        (
            "__wasilibc_reset_preopens",
            "it does not export __wasilibc_reset_preopens",
        ),
        (
            "reset_adapter_state",
            "it does not export reset_adapter_state",
        ),
        ("memory", "its memory is not exported"),
    ] {
        assert_eq!(refused(&without(name)), why);
    }
    let why = refused("(component (core module))");
    assert_eq!(why, "it has no memory");
    let why = refused(&component("").replace("(core instance $i (instantiate $m))", "").replace(
        r#"(func (export "change") (param "to" s32) (canon lift (core func $i "change")))"#, "",
    ).replace(
        r#"(func (export "look") (param "at" s32) (result s32) (canon lift (core func $i "look")))"#, "",
    ));
    assert_eq!(why, "module 0 is not instantiated");
    let hidden =
        r#"(core module $n (global (mut i32) (i32.const 0))) (core instance (instantiate $n))"#;
    let why = refused(&nested("", hidden));
    assert_eq!(why, "module 1 has mutable globals and no exports");
    let foreign = r#"(core module $n (import "m" "memory" (memory 1)) (data (i32.const 0) "x"))
        (core instance (instantiate $n (with "m" (instance $i))))"#;
    let why = refused(&nested("", foreign));
    assert_eq!(why, "module 1 has data for another's memory");
}

#[test]
fn modules_that_are_not_where_they_are_counted_are_refused() {
    for (outer, why) in [
        (
            "(core instance (instantiate $m))",
            "it instantiates module 0 twice",
        ),
        (
            "(component (core module))",
            "a component within it has a module of its own",
        ),
        // The same module, instantiated where nobody compares its globals.
        (
            r#"(component $c (import "m" (core module $n)) (core instance (instantiate $n)))
               (instance (instantiate $c (with "m" (core module $m))))"#,
            "it takes a module from outside",
        ),
        (
            "(component $c (core instance (instantiate $m))) (instance (instantiate $c))",
            "it takes a module from outside",
        ),
        (
            "(component (core instance))",
            "a component within it has core instances of its own",
        ),
        (
            r#"(import "m" (core module $n)) (core instance (instantiate $n))"#,
            "it takes a module from outside",
        ),
        (
            r#"(import "i" (instance $o (export "m" (core module)))) (alias export $o "m" (core module $n)) (core instance (instantiate $n))"#,
            "it takes a module from outside",
        ),
    ] {
        assert_eq!(refused(&nested("", outer)), why, "{outer}");
    }
}

#[test]
fn state_that_the_host_keeps_for_a_component_is_refused() {
    for outer in [
        "(type $r (resource (rep i32))) (core func (canon resource.new $r))",
        "(type $r (resource (rep i32))) (core func (canon resource.rep $r))",
        "(core func (canon context.set i32 0))",
        "(component (type $r (resource (rep i32))) (core func (canon resource.new $r)))",
    ] {
        assert_eq!(
            refused(&nested("", outer)),
            "it has resources, tasks or streams of its own",
            "{outer}"
        );
    }
    let start = r#"(import "f" (func $f)) (start $f)"#;
    assert_eq!(refused(&nested("", start)), "it has a start function");
    // Those of others are given up by the guest itself.
    let dropped = r#"(import "r" (type $r (sub resource))) (core func (canon resource.drop $r))"#;
    assert_eq!(refused(&nested("", dropped)), "");
}

#[test]
fn names_of_ones_own_are_not_covered_up() {
    let taken = component(r#"(func (export "flowcell-global-0"))"#);
    assert!(refused(&taken).contains("flowcell-global-0"));
    let taken = nested(
        "",
        r#"(func (export "flowcell-settle") (canon lift (core func $i "reset_adapter_state")))"#,
    );
    assert!(refused(&taken).contains("flowcell-settle"));
    // A reset that takes something cannot be called.
    let other = component("").replace(
        r#"(func (export "reset_adapter_state") "#,
        r#"(func (export "reset_adapter_state") (param i32) "#,
    );
    assert!(refused(&other).contains("type mismatch"));
}

#[test]
fn many_globals_are_refused() {
    let many = "(global (mut i32) (i32.const 0))".repeat(MAX_GLOBALS);
    assert!(refused(&component(&many)).contains("more than 10000 mutable globals"));
}

#[test]
fn the_data_is_beside_the_code() {
    let shell = shell(&component("")).unwrap();
    assert_eq!(shell.memory.len(), 65536);
    // In order: the later one wins.
    assert_eq!(&shell.memory[15..20], b"\0acd\0");
    assert_eq!(shell.memory.iter().filter(|byte| **byte != 0).count(), 3);
    let of = |needle: &[u8]| {
        shell
            .component
            .windows(needle.len())
            .any(|bytes| bytes == needle)
    };
    assert!(!of(b"ab") || !of(b"cd"));
    assert!(Shell::of(&shell.component).is_err(), "a shell has no shell");
}

/// An instance of a component in an ordinary engine: its functions.
struct Live {
    store: wasmtime::Store<()>,
    instance: wasmtime::component::Instance,
}

impl Live {
    fn new(wasm: &[u8]) -> Self {
        let engine = wasmtime::Engine::default();
        let component = wasmtime::component::Component::new(&engine, wasm).unwrap();
        let mut store = wasmtime::Store::new(&engine, ());
        let linker = wasmtime::component::Linker::new(&engine);
        let instance = linker.instantiate(&mut store, &component).unwrap();
        Self { store, instance }
    }

    fn call<P, R>(&mut self, name: &str, given: P) -> R
    where
        P: wasmtime::component::ComponentNamedList + wasmtime::component::Lower,
        R: wasmtime::component::ComponentNamedList + wasmtime::component::Lift,
    {
        let function = self
            .instance
            .get_typed_func::<P, R>(&mut self.store, name)
            .unwrap();
        function.call(&mut self.store, given).unwrap()
    }

    fn look(&mut self, at: i32) -> i32 {
        self.call::<_, (i32,)>("look", (at,)).0
    }
}

#[test]
fn settle_tells_a_global_that_has_changed_and_resets_nothing_then() {
    let shell = shell(&component("")).unwrap();
    let mut live = Live::new(&shell.component);
    assert_eq!(live.look(16), 0, "it has its data elsewhere");
    assert_eq!(live.call::<_, (i32,)>(SETTLE, ()).0, 0);
    assert_eq!((live.look(0), live.look(1)), (1, 1));

    let mut live = Live::new(&shell.component);
    let () = live.call("change", (8,));
    assert_eq!(live.call::<_, (i32,)>(SETTLE, ()).0, 1);
    assert_eq!((live.look(0), live.look(1)), (0, 0));
    // And back: only the value counts.
    let () = live.call("change", (7,));
    assert_eq!(live.call::<_, (i32,)>(SETTLE, ()).0, 0);
}

#[test]
fn each_type_of_global_is_compared() {
    // One after the other: numbers follow the order in which the modules have them.
    for (number, set) in [
        (2, "(global.set 1 (i64.const 7))"),
        (3, "(global.set 2 (f32.const nan:0x200000))"),
        (4, "(global.set 3 (f64.const -0.5))"),
        (5, "(global.set $more (f64.const -0))"),
    ] {
        let more = format!(r#"(global $more (mut f64) (f64.const 0)) (func (export "set") {set})"#);
        let lifted = r#"(func (export "set") (canon lift (core func $i "set")))"#;
        let shell = shell(&nested(&more, lifted)).unwrap();
        let mut live = Live::new(&shell.component);
        assert_eq!(live.call::<_, (i32,)>(SETTLE, ()).0, 0);
        let () = live.call("set", ());
        assert_eq!(live.call::<_, (i32,)>(SETTLE, ()).0, number, "{set}");
    }
}

#[test]
fn globals_of_several_modules_are_compared() {
    let other = r#"(core module $n (global $g (mut i32) (i32.const 3)) (func (export "set") (global.set $g (i32.const 4))))
        (core instance $j (instantiate $n)) (func (export "set") (canon lift (core func $j "set")))"#;
    let shell = shell(&nested("", other)).unwrap();
    let mut live = Live::new(&shell.component);
    let () = live.call("set", ());
    assert_eq!(live.call::<_, (i32,)>(SETTLE, ()).0, 5);
}

#[test]
fn grow_is_that_of_the_memory() {
    let shell = shell(&component("")).unwrap();
    let mut live = Live::new(&shell.component);
    assert_eq!(live.call::<_, (i32,)>(GROW, (3,)).0, 1);
    assert_eq!(live.look(4 * 65536 - 1), 0);
    assert_eq!(live.call::<_, (i32,)>(GROW, (0,)).0, 4);
    assert_eq!(live.call::<_, (i32,)>(GROW, (-1,)).0, -1);
}

#[test]
fn what_ends_early_is_refused_wherever_it_ends() {
    let inner = "(component (import \"f\" (func)) (type (func)))";
    let whole = wat::parse_str(nested("", inner)).unwrap();
    let mut complete = 0;
    for length in 0..whole.len() {
        match Shell::of(&whole[..length]) {
            // Cut between two sections, of which the first do by themselves.
            Ok(shell) => complete += usize::from(validate(&shell.component).is_ok()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!((1..10).contains(&complete), "{complete}");
    assert!(Shell::of(&whole).is_ok());
    for other in [&b""[..], b"\0asm", b"\0asm\x01\0\0\0", b"MZ garbage"] {
        assert!(Shell::of(other).is_err());
    }
}

proptest! {
    #[test]
    fn whatever_is_given_is_made_or_refused(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut wasm = wat::parse_str(nested("", "(component)")).unwrap();
        for (at, byte) in changes {
            let at = at.index(wasm.len());
            wasm[at] = byte;
        }
        if cuts {
            wasm.truncate(cut.index(wasm.len()));
        }
        if let Ok(shell) = Shell::of(&wasm) {
            prop_assert!(validate(&shell.component).is_ok());
            prop_assert!(shell.memory.len().is_multiple_of(65536));
        }
    }
}
