//! What `/metrics` says.

/// Metrics in Prometheus' text format.
#[derive(Debug, Clone)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    pub fn new(text: String) -> Self {
        Self { text }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The sum over all label sets of this metric; `None` if it has none.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let values: Vec<f64> = self.samples(name).map(|(_, value)| value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// The one whose labels contain this text, such as `state="streaming"`.
    pub fn labelled(&self, name: &str, label: &str) -> Option<f64> {
        self.samples(name).find(|(labels, _)| labels.contains(label)).map(|(_, value)| value)
    }

    fn samples(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with(['{', ' ']) {
                return None;
            }
            let (labels, value) = rest.rsplit_once(' ')?;
            Some((labels, value.parse().ok()?))
        })
    }
}
