//! What is printed: figures with their targets, and remarks that help to judge them.

/// Prints figures as they come, and remembers whether one missed its target.
#[derive(Debug, Default)]
pub struct Report {
    missed: usize,
}

impl Report {
    /// A heading.
    pub fn title(&self, title: &str) {
        println!("\n{title}");
    }

    /// A figure without a target.
    pub fn remark(&self, name: &str, value: &str) {
        println!("  {name:<58} {value}");
    }

    /// A figure that is to be at most `target`.
    pub fn at_most(&mut self, name: &str, value: f64, target: f64, unit: &str) {
        let is_met = value <= target;
        self.verdict(name, value, &format!("<= {target}"), unit, is_met);
    }

    /// A figure that is to be at least `target`.
    pub fn at_least(&mut self, name: &str, value: f64, target: f64, unit: &str) {
        let is_met = value >= target;
        self.verdict(name, value, &format!(">= {target}"), unit, is_met);
    }

    /// Whether no figure missed its target.
    pub fn is_all_met(&self) -> bool {
        self.missed == 0
    }

    fn verdict(&mut self, name: &str, value: f64, target: &str, unit: &str, is_met: bool) {
        self.missed += usize::from(!is_met);
        let value = if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.3}") };
        let verdict = if is_met { "ok" } else { "MISSED" };
        println!("  {name:<58} {value:>12} {unit:<3} target {target:<8} {verdict}");
    }
}
