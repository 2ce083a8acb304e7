//! Choosing among the variants of nodes.
//!
//! Rules: `overwrite_variant` of promptflow's SDK (`_sdk/_orchestrator/utils.py`), which `pf flow test` and `pf run create` apply to
//! every flow before anything else, with or without `--variant`.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

use crate::error::{ErrorKind, FlowError, suggest};
use crate::json::constant_pattern;
use crate::schema::{Flow, Node};

/// promptflow's pattern, its unescaped dot included: any one character may stand between node and variant.
static PATTERN: LazyLock<Regex> = LazyLock::new(|| constant_pattern(r"^\$\{([^.]+).([^}]+)\}"));

/// `${node.variant}`: which variant of which node to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariantChoice {
    /// The node's name.
    pub node: String,
    /// The variant's id.
    pub variant: String,
}

impl FromStr for VariantChoice {
    type Err = FlowError;

    /// Reads the value of `--variant`. One pair of quotes around it is stripped, because shells of some systems leave them.
    ///
    /// # Errors
    /// `UserErrorException` if the text has another form.
    fn from_str(text: &str) -> Result<VariantChoice, FlowError> {
        let unquoted = ['"', '\'']
            .iter()
            .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
            .unwrap_or(text);
        let found = PATTERN.captures(unquoted);
        match found
            .as_ref()
            .and_then(|found| Some((found.get(1)?, found.get(2)?)))
        {
            Some((node, variant)) => Ok(VariantChoice {
                node: node.as_str().to_owned(),
                variant: variant.as_str().to_owned(),
            }),
            None => Err(ErrorKind::InvalidVariantFormat {
                text: text.to_owned(),
            }
            .into()),
        }
    }
}

impl fmt::Display for VariantChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${{{}.{}}}", self.node, self.variant)
    }
}

fn invalid(message: String) -> FlowError {
    ErrorKind::InvalidFlowError { message }.into()
}

impl Flow {
    /// Puts variants in place of the nodes that use them: the chosen variant for its node, the default variant for the others.
    ///
    /// A node that does not `use_variants` stays as it is even if it is chosen; promptflow does the same. On an error the flow is
    /// unchanged.
    ///
    /// # Errors
    /// `InvalidFlowError` for a node or a variant that does not exist.
    pub fn with_variant(&mut self, choice: Option<&VariantChoice>) -> Result<(), FlowError> {
        if let Some(VariantChoice { node, variant }) = choice {
            if self.node(node).is_none() {
                let help = suggest(node, self.node_variants.keys().map(String::as_str));
                return Err(invalid(format!("Node {node} not found in flow")).with_help(help));
            }
            let variants = self.node_variants.get(node);
            if !variants.is_some_and(|variants| variants.variants.contains_key(variant)) {
                let there = variants
                    .into_iter()
                    .flat_map(|variants| variants.variants.keys().map(String::as_str));
                let help = suggest(variant, there);
                return Err(
                    invalid(format!("Variant {variant} not found for node {node}")).with_help(help),
                );
            }
        }
        self.nodes = self
            .nodes
            .iter()
            .map(|node| self.resolved(node, choice))
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    fn resolved(&self, node: &Node, choice: Option<&VariantChoice>) -> Result<Node, FlowError> {
        if !node.use_variants {
            return Ok(node.clone());
        }
        let name = &node.name;
        let Some(variants) = self.node_variants.get(name) else {
            return Err(invalid(format!("No variant for the node {name}.")).at(node.location()));
        };
        let chosen = choice
            .filter(|choice| choice.node == *name)
            .map(|choice| &choice.variant);
        let Some(id) = chosen.or(variants.default_variant_id.as_ref()) else {
            return Err(
                invalid(format!("Default variant id is not specified for {name}.")).at(variants.at),
            );
        };
        match variants.variants.get(id) {
            Some(variant) => Ok(variant.clone()),
            None => Err(invalid(format!("Cannot find the variant {id} for {name}."))
                .at(variants.at)
                .with_help(suggest(id, variants.variants.keys().map(String::as_str)))),
        }
    }
}
