//! Numbers as Python prints and rounds them.

use minijinja::{Error, ErrorKind, Value};

/// `repr(float)`: the shortest digits that read back the same, with an exponent from 1e16 on and below 1e-4.
pub fn float_repr(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let fixed = format!("{number}");
    if fixed.contains('.') {
        fixed
    } else {
        fixed + ".0"
    }
}

/// The filter `round`: halves go to the even neighbour, as in Python.
pub fn round(value: Value, precision: Option<i32>, method: Option<String>) -> Result<Value, Error> {
    let precision = precision.unwrap_or(0);
    let method = method.as_deref().unwrap_or("common");
    if !["common", "ceil", "floor"].contains(&method) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "method must be common, ceil or floor",
        ));
    }
    if value.is_integer() && method == "common" {
        return Ok(value);
    }
    let number = f64::try_from(value)?;
    let factor = 10f64.powi(precision);
    let rounded = match method {
        "ceil" => (number * factor).ceil() / factor,
        "floor" => (number * factor).floor() / factor,
        // The decimal printing of a float rounds its exact value, which multiplying would disturb.
        _ if precision >= 0 => format!("{number:.*}", precision as usize)
            .parse()
            .unwrap_or(number),
        _ => (number * factor).round_ties_even() / factor,
    };
    Ok(Value::from(rounded))
}

/// The filter `float`: what is no number becomes the default.
pub fn float(value: Value, default: Option<f64>) -> f64 {
    let default = default.unwrap_or(0.0);
    match value.as_str() {
        Some(text) => text.trim().replace('_', "").parse().unwrap_or(default),
        None => f64::try_from(value).unwrap_or(default),
    }
}

/// The filter `int`: what is no number becomes the default.
pub fn int(value: Value, default: Option<i64>, base: Option<u32>) -> Value {
    let default = Value::from(default.unwrap_or(0));
    let Some(text) = value.as_str() else {
        if value.is_integer() {
            return value;
        }
        return f64::try_from(value).map_or(default, truncated);
    };
    let digits = text.trim().replace('_', "");
    match i128::from_str_radix(&digits, base.unwrap_or(10)) {
        Ok(integer) => i64::try_from(integer).map_or_else(|_| Value::from(integer), Value::from),
        Err(_) => digits.parse::<f64>().map_or(default, truncated),
    }
}

fn truncated(number: f64) -> Value {
    let whole = number.trunc() as i128;
    i64::try_from(whole).map_or_else(|_| Value::from(whole), Value::from)
}
