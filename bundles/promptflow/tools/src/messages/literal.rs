//! Python's literals (`ast.literal_eval`) as JSON: texts, numbers, lists, tuples, dicts, True, False and None.

use serde_json::{Map, Value};

/// How deep literals may be nested.
const MAX_DEPTH: usize = 64;

/// The value of a literal; none when it is not one, or has no JSON form.
pub fn parse(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text };
    let value = reader.value(0)?;
    reader.spaces();
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn spaces(&mut self) {
        self.rest = self
            .rest
            .trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
    }

    fn take(&mut self, token: &str) -> bool {
        self.spaces();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.spaces();
        match self.rest.chars().next()? {
            '[' => self.items('[', "]", depth).map(|(items, _)| items.into()),
            '(' => {
                let (mut items, comma) = self.items('(', ")", depth)?;
                match items.pop() {
                    // Brackets around one value are no tuple.
                    Some(only) if items.is_empty() && !comma => Some(only),
                    last => Some(items.into_iter().chain(last).collect::<Vec<_>>().into()),
                }
            }
            '{' => self.members(depth),
            '\'' | '"' => {
                let mut text = self.text()?;
                loop {
                    self.spaces();
                    if !self.rest.starts_with(['\'', '"']) {
                        return Some(text.into());
                    }
                    text.push_str(&self.text()?);
                }
            }
            letter if letter.is_ascii_alphabetic() => {
                let end = self
                    .rest
                    .find(|letter: char| !letter.is_ascii_alphanumeric());
                let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                self.rest = rest;
                match word {
                    "None" => Some(Value::Null),
                    "True" => Some(true.into()),
                    "False" => Some(false.into()),
                    _ => None,
                }
            }
            _ => self.number(),
        }
    }

    /// Values up to the closing bracket, and whether a comma is after the last.
    fn items(&mut self, open: char, close: &str, depth: usize) -> Option<(Vec<Value>, bool)> {
        self.rest = self.rest.strip_prefix(open)?;
        let (mut items, mut comma) = (Vec::new(), false);
        while !self.take(close) {
            if !items.is_empty() && !comma {
                return None;
            }
            items.push(self.value(depth + 1)?);
            comma = self.take(",");
        }
        Some((items, comma))
    }

    fn members(&mut self, depth: usize) -> Option<Value> {
        self.rest = self.rest.strip_prefix('{')?;
        let (mut members, mut comma) = (Map::new(), true);
        while !self.take("}") {
            if !comma {
                return None;
            }
            // JSON's names are texts.
            let Value::String(name) = self.value(depth + 1)? else {
                return None;
            };
            if !self.take(":") {
                return None;
            }
            members.insert(name, self.value(depth + 1)?);
            comma = self.take(",");
        }
        Some(Value::Object(members))
    }

    fn number(&mut self) -> Option<Value> {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || "+-._".contains(letter);
        let end = self
            .rest
            .find(|letter| !is_part(letter))
            .unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        let digits = digits.strip_prefix('+').unwrap_or(digits).replace('_', "");
        serde_json::from_str(&digits)
            .ok()
            .or_else(|| {
                // `.5` and `5.` are numbers to Python.
                let number: f64 = digits.parse().ok()?;
                let sound = number.is_finite() && digits.contains('.');
                sound.then(|| serde_json::from_str(&crate::number::float_repr(number)).ok())?
            })
            .filter(Value::is_number)
    }

    fn text(&mut self) -> Option<String> {
        let quote = ["'''", "\"\"\"", "'", "\""]
            .into_iter()
            .find(|quote| self.rest.starts_with(quote))?;
        self.rest = self.rest.get(quote.len()..)?;
        let mut out = String::new();
        loop {
            if let Some(rest) = self.rest.strip_prefix(quote) {
                self.rest = rest;
                return Some(out);
            }
            let letter = self.letter()?;
            match letter {
                '\n' if quote.len() == 1 => return None,
                '\\' => out.extend(self.escape()?),
                letter => out.push(letter),
            }
        }
    }

    fn letter(&mut self) -> Option<char> {
        let letter = self.rest.chars().next()?;
        self.rest = self.rest.get(letter.len_utf8()..)?;
        Some(letter)
    }

    /// What a backslash stands for: one letter, none, or itself and a letter.
    fn escape(&mut self) -> Option<Vec<char>> {
        let letter = self.letter()?;
        let code = |reader: &mut Self, digits: usize| {
            let code = u32::from_str_radix(reader.rest.get(..digits)?, 16).ok()?;
            reader.rest = reader.rest.get(digits..)?;
            char::from_u32(code)
        };
        Some(match letter {
            '\n' => Vec::new(),
            '\\' | '\'' | '"' => vec![letter],
            'n' => vec!['\n'],
            't' => vec!['\t'],
            'r' => vec!['\r'],
            'a' => vec!['\x07'],
            'b' => vec!['\x08'],
            'f' => vec!['\x0c'],
            'v' => vec!['\x0b'],
            'x' => vec![code(self, 2)?],
            'u' => vec![code(self, 4)?],
            'U' => vec![code(self, 8)?],
            '0'..='7' => {
                let more = self
                    .rest
                    .bytes()
                    .take(2)
                    .take_while(|byte| (b'0'..=b'7').contains(byte))
                    .count();
                let (digits, rest) = self.rest.split_at(more);
                let code = u32::from_str_radix(&format!("{letter}{digits}"), 8).ok()?;
                self.rest = rest;
                vec![char::from_u32(code)?]
            }
            other => vec!['\\', other],
        })
    }
}
