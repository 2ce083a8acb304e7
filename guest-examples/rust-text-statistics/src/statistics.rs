//! What the tool does, without anything of WebAssembly.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// The tool's inputs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    pub text: String,
    /// How many of the most frequent words to return.
    #[serde(default = "default_top")]
    pub top: usize,
}

pub const DEFAULT_TOP: usize = 3;

fn default_top() -> usize {
    DEFAULT_TOP
}

/// The tool's answer.
#[derive(Debug, PartialEq, Serialize)]
pub struct Statistics {
    pub characters: usize,
    pub words: usize,
    pub distinct: usize,
    pub frequent: Vec<Word>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Word {
    pub word: String,
    pub count: usize,
}

/// Words are runs of letters and digits, apostrophes included, in lower case. Equally frequent ones come by alphabet.
pub fn text_statistics(inputs: &Inputs) -> Statistics {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut words = 0;
    for word in inputs
        .text
        .split(|character: char| !character.is_alphanumeric() && character != '\'')
    {
        let word = word.trim_matches('\'').to_lowercase();
        if !word.is_empty() {
            words += 1;
            *counts.entry(word).or_default() += 1;
        }
    }
    let distinct = counts.len();
    let mut frequent: Vec<Word> = counts
        .into_iter()
        .map(|(word, count)| Word { word, count })
        .collect();
    frequent.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.word.cmp(&b.word)));
    frequent.truncate(inputs.top);
    Statistics {
        characters: inputs.text.chars().count(),
        words,
        distinct,
        frequent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(text: &str, top: usize) -> Statistics {
        text_statistics(&Inputs {
            text: text.into(),
            top,
        })
    }

    #[test]
    fn counts_words_without_regard_to_case() {
        let got = statistics("The cat and the dog. Don't the cats?", 2);
        assert_eq!((got.characters, got.words, got.distinct), (36, 8, 6));
        assert_eq!(
            got.frequent,
            [
                Word {
                    word: "the".into(),
                    count: 3
                },
                Word {
                    word: "and".into(),
                    count: 1
                }
            ]
        );
    }

    #[test]
    fn an_empty_text_has_no_words() {
        assert_eq!(
            statistics("  …", 3),
            Statistics {
                characters: 3,
                words: 0,
                distinct: 0,
                frequent: vec![]
            }
        );
    }

    #[test]
    fn top_has_a_default_and_unknown_inputs_are_refused() {
        assert_eq!(
            serde_json::from_str::<Inputs>(r#"{"text": "a"}"#)
                .expect("valid")
                .top,
            DEFAULT_TOP
        );
        assert!(serde_json::from_str::<Inputs>(r#"{"text": "a", "tpo": 1}"#).is_err());
    }
}
