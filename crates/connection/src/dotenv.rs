//! `.env` files, as python-dotenv reads them: `export`, quotes, escapes, comments, and `${NAME}` and `${NAME:-default}`.

use indexmap::IndexMap;

use crate::error::ConnectionError;

/// The variables of a file, in order; one without `=` has no value. `variable` is the environment, behind the file's own.
pub(crate) fn read(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<IndexMap<String, Option<String>>, ConnectionError> {
    let mut reader = Reader {
        rest: text.trim_start_matches('\u{feff}'),
        line: 1,
    };
    let mut variables: IndexMap<String, Option<String>> = IndexMap::new();
    while let Some((name, value)) = reader.next()? {
        let value = value.map(|(value, is_literal)| {
            if is_literal {
                return value;
            }
            interpolated(&value, |name| {
                let own = variables.get(name).cloned().flatten();
                own.or_else(|| variable(name))
            })
        });
        variables.insert(name, value);
    }
    Ok(variables)
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

/// A value, and whether nothing in it stands for anything else.
type Raw = (String, bool);

impl<'a> Reader<'a> {
    fn wrong(&self, problem: &str) -> ConnectionError {
        ConnectionError::Syntax(format!("line {} of the .env file: {problem}", self.line))
    }

    fn next(&mut self) -> Result<Option<(String, Option<Raw>)>, ConnectionError> {
        loop {
            self.skip(char::is_whitespace);
            if self.rest.is_empty() {
                return Ok(None);
            }
            if self.rest.starts_with('#') {
                self.skip(|c| c != '\n');
                continue;
            }
            break;
        }
        if let Some(rest) = self.rest.strip_prefix("export")
            && rest.starts_with([' ', '\t'])
        {
            self.rest = rest.trim_start_matches([' ', '\t']);
        }
        let name = if let Some(rest) = self.rest.strip_prefix('\'') {
            let (name, rest) = rest
                .split_once('\'')
                .ok_or_else(|| self.wrong("a quotation mark is missing"))?;
            self.rest = rest;
            name.to_owned()
        } else {
            self.take(|c| !matches!(c, '=' | '#') && !c.is_whitespace())
                .to_owned()
        };
        if name.is_empty() {
            return Err(self.wrong("the name of a variable is missing"));
        }
        self.skip(|c| matches!(c, ' ' | '\t'));
        let Some(rest) = self.rest.strip_prefix('=') else {
            self.end()?;
            return Ok(Some((name, None)));
        };
        self.rest = rest;
        self.skip(|c| matches!(c, ' ' | '\t'));
        let value = match self.rest.chars().next() {
            Some('\'') => (self.quoted('\'', "\\'")?, false),
            Some('"') => (self.quoted('"', "\\'\"abfnrtv")?, false),
            _ => {
                let line = self.take(|c| !matches!(c, '\n' | '\r'));
                // A comment begins with white space.
                let mut end = line.len();
                let mut before = None;
                for (at, c) in line.char_indices() {
                    if c == '#' && before.is_none_or(char::is_whitespace) {
                        end = at;
                        break;
                    }
                    before = Some(c);
                }
                (line.get(..end).unwrap_or(line).trim_end().to_owned(), false)
            }
        };
        self.end()?;
        Ok(Some((name, Some(value))))
    }

    /// A quoted value, in which these characters can stand behind a backslash.
    fn quoted(&mut self, quote: char, escapes: &str) -> Result<String, ConnectionError> {
        let mut value = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    let (taken, rest) = self.rest.split_at(at + c.len_utf8());
                    self.line += taken.matches('\n').count();
                    self.rest = rest;
                    return Ok(value);
                }
                '\\' => match chars.next() {
                    Some((_, c)) if escapes.contains(c) => value.push(match c {
                        'a' => '\u{7}',
                        'b' => '\u{8}',
                        'f' => '\u{c}',
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        'v' => '\u{b}',
                        other => other,
                    }),
                    Some((_, c)) => value.extend(['\\', c]),
                    None => break,
                },
                c => value.push(c),
            }
        }
        Err(self.wrong("a quotation mark is missing"))
    }

    /// What may stand behind a variable: a comment, and the end of the line.
    fn end(&mut self) -> Result<(), ConnectionError> {
        self.skip(|c| matches!(c, ' ' | '\t'));
        if self.rest.starts_with('#') {
            self.skip(|c| c != '\n');
        }
        if self.rest.is_empty() || self.rest.starts_with(['\n', '\r']) {
            return Ok(());
        }
        Err(self.wrong("there is something behind the value"))
    }

    fn take(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !fits(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn skip(&mut self, fits: impl Fn(char) -> bool) {
        self.take(fits);
    }
}

/// A value with `${NAME}` and `${NAME:-default}` replaced; a name without a value is nothing. What has another form, such
/// as `${env:NAME}`, stays.
fn interpolated(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        done.push_str(before);
        let Some((inner, behind)) = after.split_once('}') else {
            done.push_str("${");
            rest = after;
            continue;
        };
        let (name, default) = match inner.split_once(':') {
            None => (inner, Some("")),
            Some((name, default)) => (name, default.strip_prefix('-')),
        };
        match default {
            Some(default) => {
                done.push_str(&variable(name).unwrap_or_else(|| default.to_owned()));
                rest = behind;
            }
            None => {
                done.push_str("${");
                rest = after;
            }
        }
    }
    done.push_str(rest);
    done
}
