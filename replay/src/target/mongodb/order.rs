//! The order in which MongoDB keeps values of `_id`, as a collection without a collation has them.
//!
//! Enters: two values. Leaves: which is lower. It decides in which range of a base a document is
//! (docs: "Comparison/Sort Order"; src/mongo/bson/bsonelement.cpp, canonicalizeBSONType and
//! compareElements).

use std::cmp::Ordering;

use bson::{RawArray, RawBsonRef, RawDocument};

use super::operation::DEPTH_MAX;

/// Compares two values; what cannot be read, or is nested deeper than a server allows, counts as equal,
/// which no `_id` of a server is.
pub fn compare(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> Ordering {
    compare_within(a, b, DEPTH_MAX)
}

fn compare_within(a: RawBsonRef<'_>, b: RawBsonRef<'_>, levels: usize) -> Ordering {
    rank(&a).cmp(&rank(&b)).then_with(|| same_rank(a, b, levels))
}

fn rank(value: &RawBsonRef<'_>) -> u8 {
    match value {
        RawBsonRef::MinKey => 0,
        RawBsonRef::Undefined => 1,
        RawBsonRef::Null => 5,
        RawBsonRef::Double(_)
        | RawBsonRef::Int32(_)
        | RawBsonRef::Int64(_)
        | RawBsonRef::Decimal128(_) => 10,
        RawBsonRef::String(_) | RawBsonRef::Symbol(_) => 15,
        RawBsonRef::Document(_) => 20,
        RawBsonRef::Array(_) => 25,
        RawBsonRef::Binary(_) => 30,
        RawBsonRef::ObjectId(_) => 35,
        RawBsonRef::Boolean(_) => 40,
        RawBsonRef::DateTime(_) => 45,
        RawBsonRef::Timestamp(_) => 47,
        RawBsonRef::RegularExpression(_) => 50,
        RawBsonRef::DbPointer(_) => 55,
        RawBsonRef::JavaScriptCode(_) => 60,
        RawBsonRef::JavaScriptCodeWithScope(_) => 65,
        RawBsonRef::MaxKey => 127,
    }
}

fn same_rank(a: RawBsonRef<'_>, b: RawBsonRef<'_>, levels: usize) -> Ordering {
    use RawBsonRef as R;
    match (a, b) {
        (R::String(a) | R::Symbol(a), R::String(b) | R::Symbol(b)) => {
            a.as_bytes().cmp(b.as_bytes())
        }
        (R::Document(_) | R::Array(_), _) if levels == 0 => Ordering::Equal,
        (R::Document(a), R::Document(b)) => documents(a, b, levels - 1),
        (R::Array(a), R::Array(b)) => arrays(a, b, levels - 1),
        (R::Binary(a), R::Binary(b)) => {
            let (x, y) = (u8::from(a.subtype), u8::from(b.subtype));
            a.bytes.len().cmp(&b.bytes.len()).then(x.cmp(&y)).then(a.bytes.cmp(b.bytes))
        }
        (R::ObjectId(a), R::ObjectId(b)) => a.bytes().cmp(&b.bytes()),
        (R::Boolean(a), R::Boolean(b)) => a.cmp(&b),
        (R::DateTime(a), R::DateTime(b)) => a.cmp(&b),
        (R::Timestamp(a), R::Timestamp(b)) => (a.time, a.increment).cmp(&(b.time, b.increment)),
        (R::Int32(a), R::Int32(b)) => a.cmp(&b),
        (R::Int64(a), R::Int64(b)) => a.cmp(&b),
        (a, b) => numbers(a, b),
    }
}

/// Field by field: type, then name, then value; a shorter one is lower.
fn documents(a: &RawDocument, b: &RawDocument, levels: usize) -> Ordering {
    let (mut left, mut right) = (a.iter(), b.iter());
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(Ok((x, a))), Some(Ok((y, b)))) => {
                let field = rank(&a).cmp(&rank(&b));
                let field = field.then_with(|| x.as_str().as_bytes().cmp(y.as_str().as_bytes()));
                match field.then_with(|| same_rank(a, b, levels)) {
                    Ordering::Equal => {}
                    unequal => return unequal,
                }
            }
            _ => return Ordering::Equal,
        }
    }
}

fn arrays(a: &RawArray, b: &RawArray, levels: usize) -> Ordering {
    let (mut left, mut right) = (a.into_iter(), b.into_iter());
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(Ok(a)), Some(Ok(b))) => match compare_within(a, b, levels) {
                Ordering::Equal => {}
                unequal => return unequal,
            },
            _ => return Ordering::Equal,
        }
    }
}

/// Numbers of different types compare by value; NaN is the lowest.
fn numbers(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> Ordering {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.compare(&b),
        _ => Ordering::Equal,
    }
}

/// A number without loss: NaN, an infinity, or digits and a power of ten or of two.
#[derive(Debug, Clone, Copy)]
enum Number {
    NaN,
    Infinite { negative: bool },
    Integer(i64),
    Double(f64),
    Decimal { digits: i128, exponent: i32 },
}

impl Number {
    fn compare(&self, other: &Self) -> Ordering {
        use Number as N;
        match (self, other) {
            (N::NaN, N::NaN) => Ordering::Equal,
            (N::NaN, _) => Ordering::Less,
            (_, N::NaN) => Ordering::Greater,
            (N::Infinite { negative: a }, N::Infinite { negative: b }) => b.cmp(a),
            (N::Infinite { negative }, _) => {
                if *negative {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            (_, N::Infinite { negative }) => {
                if *negative {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (N::Integer(a), N::Integer(b)) => a.cmp(b),
            (N::Double(a), N::Double(b)) => a.total_cmp(b),
            (N::Integer(a), N::Double(b)) => integer_and_double(*a, *b),
            (N::Double(a), N::Integer(b)) => integer_and_double(*b, *a).reverse(),
            (a, b) => decimals(a.as_decimal(), b.as_decimal()),
        }
    }

    /// A double as the server turns one into a decimal for a comparison: 15 digits.
    fn as_decimal(self) -> (i128, i32) {
        match self {
            Self::Integer(n) => (n.into(), 0),
            Self::Decimal { digits, exponent } => (digits, exponent),
            Self::Double(d) => parse(&format!("{d:.14e}")).unwrap_or((0, 0)),
            Self::NaN | Self::Infinite { .. } => (0, 0),
        }
    }
}

fn number(value: RawBsonRef<'_>) -> Option<Number> {
    Some(match value {
        RawBsonRef::Int32(n) => Number::Integer(n.into()),
        RawBsonRef::Int64(n) => Number::Integer(n),
        RawBsonRef::Double(d) if d.is_nan() => Number::NaN,
        RawBsonRef::Double(d) if d.is_infinite() => Number::Infinite { negative: d < 0.0 },
        // -0.0 is 0.0.
        RawBsonRef::Double(d) => Number::Double(d + 0.0),
        RawBsonRef::Decimal128(d) => {
            let text = d.to_string();
            match text.as_str() {
                "NaN" | "-NaN" => Number::NaN,
                "Infinity" => Number::Infinite { negative: false },
                "-Infinity" => Number::Infinite { negative: true },
                _ => {
                    let (digits, exponent) = parse(&text)?;
                    Number::Decimal { digits, exponent }
                }
            }
        }
        _ => return None,
    })
}

/// `-12.50E+3` as (-1250, 1).
fn parse(text: &str) -> Option<(i128, i32)> {
    let (mantissa, exponent) = text.split_once(['E', 'e']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    Some((digits, exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?))
}

fn decimals((a, x): (i128, i32), (b, y): (i128, i32)) -> Ordering {
    let signs = a.signum().cmp(&b.signum());
    if signs != Ordering::Equal || a == 0 {
        return signs;
    }
    let digits = |n: i128| n.unsigned_abs().ilog10() as i32;
    // By the place of the first digit, then digit by digit at the same scale.
    let size = (digits(a) + x).cmp(&(digits(b) + y)).then_with(|| {
        let low = x.min(y);
        // Equal first places: the difference of the scales is at most the digits that fit.
        let scale =
            |n: i128, e: i32| n.unsigned_abs().checked_mul(10_u128.checked_pow((e - low) as u32)?);
        scale(a, x).unwrap_or(u128::MAX).cmp(&scale(b, y).unwrap_or(u128::MAX))
    });
    if a < 0 { size.reverse() } else { size }
}

fn integer_and_double(a: i64, b: f64) -> Ordering {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if b >= LIMIT {
        return Ordering::Less;
    }
    if b < -LIMIT {
        return Ordering::Greater;
    }
    // Within the limits the whole part is an i64.
    let whole = b.trunc();
    a.cmp(&(whole as i64)).then_with(|| 0.0_f64.total_cmp(&((b - whole) + 0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Bson, Decimal128, RawBson, doc, oid::ObjectId};

    fn raw(value: Bson) -> RawBson {
        RawBson::try_from(value).expect("a value")
    }

    #[test]
    fn values_stand_in_the_order_of_the_server() {
        let decimal = |text: &str| Bson::Decimal128(text.parse::<Decimal128>().expect("a number"));
        let ascending: Vec<Bson> = vec![
            Bson::MinKey,
            Bson::Null,
            Bson::Double(f64::NAN),
            Bson::Double(f64::NEG_INFINITY),
            Bson::Int64(i64::MIN),
            decimal("-1.5"),
            Bson::Int32(-1),
            Bson::Double(-0.5),
            Bson::Int64(0),
            decimal("1E-3"),
            Bson::Double(0.5),
            Bson::Int32(1),
            decimal("1.0000000000000000001"),
            Bson::Double(1.5),
            Bson::Int64(9_007_199_254_740_993),
            Bson::Double(1e300),
            decimal("1E+4000"),
            Bson::Double(f64::INFINITY),
            Bson::String(String::new()),
            Bson::String("B".to_owned()),
            Bson::String("a".to_owned()),
            Bson::String("é".to_owned()),
            Bson::Document(doc! {}),
            Bson::Document(doc! { "b": 1 }),
            Bson::Document(doc! { "b": 1, "c": 1 }),
            Bson::Document(doc! { "a": "x" }),
            Bson::ObjectId(ObjectId::from_bytes([1; 12])),
            Bson::ObjectId(ObjectId::from_bytes([2; 12])),
            Bson::Boolean(false),
            Bson::Boolean(true),
            Bson::DateTime(bson::DateTime::from_millis(-5)),
            Bson::DateTime(bson::DateTime::from_millis(5)),
            Bson::Timestamp(bson::Timestamp { time: 1, increment: 2 }),
            Bson::MaxKey,
        ];
        let values: Vec<RawBson> = ascending.into_iter().map(raw).collect();
        for (i, a) in values.iter().enumerate() {
            for (j, b) in values.iter().enumerate() {
                assert_eq!(
                    compare(a.as_raw_bson_ref(), b.as_raw_bson_ref()),
                    i.cmp(&j),
                    "{a:?} {b:?}"
                );
            }
        }
    }

    #[test]
    fn numbers_of_different_types_and_the_same_value_are_equal() {
        let one = [
            Bson::Int32(1),
            Bson::Int64(1),
            Bson::Double(1.0),
            Bson::Decimal128("1.00".parse().expect("a number")),
        ];
        for (a, b) in one.iter().flat_map(|a| one.iter().map(move |b| (a, b))) {
            let (a, b) = (raw(a.clone()), raw(b.clone()));
            assert_eq!(compare(a.as_raw_bson_ref(), b.as_raw_bson_ref()), Ordering::Equal);
        }
        let zeros = (raw(Bson::Double(-0.0)), raw(Bson::Int32(0)));
        assert_eq!(compare(zeros.0.as_raw_bson_ref(), zeros.1.as_raw_bson_ref()), Ordering::Equal);
    }
}
