//! What pixels cost. Prices are exact fractions, so that sums are those of whoever calculates with fractions too.

use std::fmt;
use std::str::FromStr;

use super::debit::PIXELS_PER_SECOND;

/// Why a text is no price.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Not a number and a unit.
    #[error(
        "`{0}` is no price: write an amount and a unit, such as 1200wei/pixel, 7/3wei/pixel, 0.36USD/hour or 0.36USD/720p"
    )]
    Form(String),
    /// The amount has too many digits.
    #[error("`{0}` has more digits than can be kept")]
    Digits(String),
}

/// What an amount is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Currency {
    Wei,
    Usd,
}

/// A price of one pixel, as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    over: u128,
    under: u128,
    currency: Currency,
}

/// An amount of money, as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Money {
    over: u128,
    under: u128,
    currency: Currency,
}

impl Price {
    /// What `pixels` cost; `None` when the amount does not fit.
    pub fn of(&self, pixels: u64) -> Option<Money> {
        let over = self.over.checked_mul(pixels.into())?;
        Some(Money { over, under: self.under, currency: self.currency })
    }
}

impl Money {
    /// `WEI` or `USD`.
    pub fn currency(&self) -> &'static str {
        match self.currency {
            Currency::Wei => "WEI",
            Currency::Usd => "USD",
        }
    }

    /// The amount: whole wei, or dollars with six digits behind the point. Halves are rounded up.
    pub fn amount(&self) -> String {
        let digits = if self.currency == Currency::Usd { 1_000_000 } else { 1 };
        let (whole, rest) = (self.over / self.under, self.over % self.under);
        // Room for the digits: what is cut off a fraction this fine is far below any half.
        let cut = if self.under > u128::MAX / (4 * digits) { 24 } else { 0 };
        let (rest, under) = (rest >> cut, self.under >> cut);
        let scaled = (rest * digits * 2 + under) / (under * 2);
        let (whole, scaled) = (whole + scaled / digits, scaled % digits);
        if digits == 1 { whole.to_string() } else { format!("{whole}.{scaled:06}") }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount(), self.currency())
    }
}

/// A number with at most 18 digits on each side of the point, as a fraction.
fn number(text: &str) -> Option<(u128, u128)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let good = |digits: &str| digits.len() <= 18 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !good(whole) || !good(part) || (whole.is_empty() && part.is_empty()) {
        return None;
    }
    let under = 10_u128.pow(part.len() as u32);
    let read = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    Some((read(whole)? * under + read(part)?, under))
}

impl FromStr for Price {
    type Err = PriceError;

    /// Reads `1200`, `1200wei/pixel`, `7/3wei/pixel` (so much for so many pixels), `0.36USD/hour` and `0.36USD/720p`, which
    /// both mean an hour of 720p at 30 frames a second. Also `gwei` and `eth`.
    fn from_str(text: &str) -> Result<Self, PriceError> {
        let form = || PriceError::Form(text.to_owned());
        let digits = || PriceError::Digits(text.to_owned());
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let end = compact.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(compact.len());
        let (amount, unit) = compact.split_at(end);
        let (over, under) = amount.split_once('/').unwrap_or((amount, "1"));
        let ((a, b), (c, d)) = (number(over).ok_or_else(form)?, number(under).ok_or_else(form)?);
        let (mut over, mut under) = (a.checked_mul(d).ok_or_else(digits)?, b.checked_mul(c).ok_or_else(digits)?);
        let unit = unit.to_ascii_lowercase();
        let (coin, per) = unit.split_once('/').unwrap_or((if unit.is_empty() { "wei" } else { &unit }, "pixel"));
        let (currency, factor) = match coin {
            "wei" => (Currency::Wei, 1),
            "gwei" => (Currency::Wei, 1_000_000_000),
            "eth" => (Currency::Wei, 1_000_000_000_000_000_000),
            "usd" => (Currency::Usd, 1),
            _ => return Err(form()),
        };
        let pixels = match per {
            "pixel" => 1,
            "second" => PIXELS_PER_SECOND,
            "hour" | "720p" => 3600 * PIXELS_PER_SECOND,
            _ => return Err(form()),
        };
        over = over.checked_mul(factor).ok_or_else(digits)?;
        under = under.checked_mul(pixels.into()).ok_or_else(digits)?;
        if under == 0 {
            return Err(form());
        }
        let common = gcd(over, under).max(1);
        Ok(Self { over: over / common, under: under / common, currency })
    }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prices_in_the_units_of_the_network() {
        let hour = 3600 * PIXELS_PER_SECOND;
        for (price, pixels, money) in [
            ("1200", 10, "12000 WEI"),
            ("1200 wei/pixel", 10, "12000 WEI"),
            ("7/3wei/pixel", 10, "23 WEI"),
            ("1/2wei/pixel", 3, "2 WEI"),
            ("0.36USD/hour", hour, "0.360000 USD"),
            ("0.36usd/720p", hour / 2, "0.180000 USD"),
            ("0.36 USD/hour", 5 * PIXELS_PER_SECOND, "0.000500 USD"),
            ("1eth/720p", hour, "1000000000000000000 WEI"),
            ("2gwei/second", PIXELS_PER_SECOND, "2000000000 WEI"),
            ("0", u64::MAX, "0 WEI"),
            ("0.9999999USD/hour", hour, "1.000000 USD"),
        ] {
            let price: Price = price.parse().unwrap_or_else(|error| panic!("{price}: {error}"));
            assert_eq!(price.of(pixels).map(|money| money.to_string()).as_deref(), Some(money));
        }
        for bad in ["", "wei", "1/0", "x", "1USD/mile", "1.2.3", "-1", "1€/hour", "1/2/3wei"] {
            assert!(matches!(bad.parse::<Price>(), Err(PriceError::Form(_))), "{bad}");
        }
        assert!("999999999999999999eth/pixel".parse::<Price>().is_ok_and(|price| price.of(u64::MAX).is_none()));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in "[0-9./a-zA-Z ]{0,40}", pixels in any::<u64>()) {
            if let Ok(price) = text.parse::<Price>() {
                let _ = price.of(pixels).map(|money| money.to_string());
            }
        }

        #[test]
        fn whole_wei_are_exact(wei in 0..1_000_000_000_u64, pixels in any::<u64>()) {
            let price: Price = wei.to_string().parse().expect("a price");
            prop_assert_eq!(price.of(pixels).map(|money| money.amount()), Some((u128::from(wei) * u128::from(pixels)).to_string()));
        }
    }
}
