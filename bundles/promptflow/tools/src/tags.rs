//! What Jinja2 says about tags that do not match: which one is open, and what it was looking for.

use crate::python::text_repr;

/// A tag that is open at some point, and the tags that could follow.
struct Open {
    name: String,
    expected: &'static [&'static str],
}

/// The message and line of the first tag that does not fit, or of the end where something is open.
pub fn mismatch(template: &str) -> Option<(String, usize)> {
    let mut open: Vec<Open> = Vec::new();
    let mut rest = template;
    let mut data_line = 1;
    while let Some(start) = rest.find("{%").into_iter().chain(rest.find("{#")).min() {
        let line = line_at(template, rest, start);
        if rest[start..].starts_with("{#") {
            let end = rest[start..].find("#}")?;
            rest = &rest[start + end + 2..];
            continue;
        }
        let end = tag_end(&rest[start..])?;
        let words = rest[start + 2..start + end - 2]
            .trim_matches(['-', '+'])
            .trim();
        let name: String = words
            .chars()
            .take_while(|character| character.is_alphanumeric() || *character == '_')
            .collect();
        rest = &rest[start + end..];
        data_line = line_at(template, rest, 0);
        if let Some(after) = rest.strip_prefix('\n') {
            rest = after;
            data_line += usize::from(!after.is_empty());
        }
        if name == "raw" {
            let Some(end) = rest.find("endraw") else {
                return Some(("Missing end of raw directive".into(), line));
            };
            rest = &rest[end + "endraw".len()..];
            rest = &rest[rest.find("%}").map_or(0, |end| end + 2)..];
            continue;
        }
        if let Some(innermost) = open.last_mut()
            && innermost.expected.contains(&name.as_str())
        {
            match name.as_str() {
                "elif" => {}
                "else" if innermost.name == "if" => innermost.expected = &["endif"],
                "else" => innermost.expected = &["endfor"],
                _ => drop(open.pop()),
            }
            continue;
        }
        match expectation(&name, words) {
            Tag::Opens(expected) => open.push(Open { name, expected }),
            Tag::Alone => {}
            Tag::Unknown => return Some((complaint(Some(&name), &open), line)),
        }
    }
    (!open.is_empty()).then(|| (complaint(None, &open), data_line))
}

enum Tag {
    Opens(&'static [&'static str]),
    Alone,
    Unknown,
}

fn expectation(name: &str, words: &str) -> Tag {
    match name {
        "if" => Tag::Opens(&["elif", "else", "endif"]),
        "for" => Tag::Opens(&["endfor", "else"]),
        "block" => Tag::Opens(&["endblock"]),
        "macro" => Tag::Opens(&["endmacro"]),
        "call" => Tag::Opens(&["endcall"]),
        "filter" => Tag::Opens(&["endfilter"]),
        "with" => Tag::Opens(&["endwith"]),
        "autoescape" => Tag::Opens(&["endautoescape"]),
        // `{% set x %}…{% endset %}`; with `=` it stands alone.
        "set" if !words.contains('=') => Tag::Opens(&["endset"]),
        "set" | "extends" | "print" | "include" | "from" | "import" => Tag::Alone,
        _ => Tag::Unknown,
    }
}

fn complaint(tag: Option<&str>, open: &[Open]) -> String {
    let mut sentences = vec![match tag {
        None => "Unexpected end of template.".to_string(),
        Some(tag) => format!("Encountered unknown tag {}.", text_repr(tag)),
    }];
    if let Some(innermost) = open.last() {
        let looking = innermost
            .expected
            .iter()
            .map(|tag| text_repr(tag))
            .collect::<Vec<_>>()
            .join(" or ");
        sentences.push(if tag.is_some_and(|tag| open.iter().any(|outer| outer.expected.contains(&tag))) {
            format!("You probably made a nesting mistake. Jinja is expecting this tag, but currently looking for {looking}.")
        } else {
            format!("Jinja was looking for the following tags: {looking}.")
        });
        sentences.push(format!(
            "The innermost block that needs to be closed is {}.",
            text_repr(&innermost.name)
        ));
    }
    sentences.join(" ")
}

/// Where the tag at the start of `text` ends; texts in quotes may hold `%}`.
fn tag_end(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut previous = ' ';
    for (index, character) in text.char_indices() {
        match quote {
            Some(open) if character == open && previous != '\\' => quote = None,
            Some(_) => {}
            None if character == '"' || character == '\'' => quote = Some(character),
            None if character == '}' && previous == '%' => return Some(index + 1),
            None => {}
        }
        previous = character;
    }
    None
}

/// The line (from 1) of a position in `rest`, which is the end of `template`.
fn line_at(template: &str, rest: &str, position: usize) -> usize {
    let before = template.len() - rest.len() + position;
    1 + template[..before].matches('\n').count()
}
