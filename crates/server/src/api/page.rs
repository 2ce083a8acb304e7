//! Long lists, a page at a time.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::problem::{Kind, Problem};

/// Entries of a page that does not say how many.
const USUAL: usize = 100;
/// Most entries of a page.
const MOST: usize = 1_000;

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// Most entries of the page, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Leads to the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl PageParams {
    /// Most entries of the page.
    ///
    /// # Errors
    /// When it is out of range.
    pub fn limit(&self) -> Result<usize, Problem> {
        match self.limit.unwrap_or(USUAL) {
            limit @ 1..=MOST => Ok(limit),
            limit => Err(Problem::new(
                Kind::BadRequest,
                format!("limit: {limit} is not between 1 and {MOST}"),
            )),
        }
    }

    /// The last entry of the page before.
    ///
    /// # Errors
    /// When it is no cursor of this API.
    pub fn after(&self) -> Result<Option<String>, Problem> {
        let Some(cursor) = &self.cursor else {
            return Ok(None);
        };
        let name = URL_SAFE_NO_PAD
            .decode(cursor)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        name.map(Some).ok_or_else(no_cursor)
    }

    /// The number of the last entry of the page before, of a list whose entries have numbers.
    ///
    /// # Errors
    /// When it is no cursor of such a list.
    pub fn after_number(&self) -> Result<Option<u64>, Problem> {
        let number = self.after()?.map(|number| number.parse());
        number.transpose().map_err(|_| no_cursor())
    }

    /// The page of a map's entries, by name.
    ///
    /// # Errors
    /// When a parameter is wrong.
    pub fn of<K: Ord + Borrow<str>, V, T>(
        &self,
        map: &BTreeMap<K, V>,
        mut view: impl FnMut(&K, &V) -> Option<T>,
    ) -> Result<Page<T>, Problem> {
        let limit = self.limit()?;
        let after = self.after()?;
        let from = match &after {
            Some(after) => Bound::Excluded(after.as_str()),
            None => Bound::Unbounded,
        };
        let mut entries = map.range::<str, _>((from, Bound::Unbounded));
        let mut items = Vec::new();
        let mut last = None;
        for (key, value) in entries.by_ref() {
            if let Some(item) = view(key, value) {
                if items.len() == limit {
                    return Ok(Page {
                        items,
                        next_cursor: last,
                    });
                }
                items.push(item);
                last = Some(cursor(key.borrow()));
            }
        }
        Ok(Page {
            items,
            next_cursor: None,
        })
    }
}

fn no_cursor() -> Problem {
    Problem::new(
        Kind::BadRequest,
        "cursor: it is not the next_cursor of a page",
    )
}

/// The cursor that leads to what comes after a name.
pub(crate) fn cursor(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}
