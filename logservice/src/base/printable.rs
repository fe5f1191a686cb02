//! Makes text of others safe to show on a terminal.

/// Most characters that are shown.
const MAX_CHARACTERS: usize = 2000;

/// `text` with control characters escaped (`\u{1b}`), so that it changes nothing but its own line, and cut off if it is very long.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_CHARACTERS));
    for (number, character) in text.chars().enumerate() {
        if number == MAX_CHARACTERS {
            out.push_str("...");
            break;
        }
        if is_harmless(character) {
            out.push(character);
        } else {
            out.extend(character.escape_default());
        }
    }
    out
}

/// Neither a control character nor one that reorders what stands beside it.
fn is_harmless(character: char) -> bool {
    let reorders = matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !character.is_control() && !reorders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_do_nothing() {
        assert_eq!(
            printable("a \u{1b}[2J\r\n\0\u{7f}\u{9b}31m\u{202e} ü"),
            r"a \u{1b}[2J\r\n\u{0}\u{7f}\u{9b}31m\u{202e} ü"
        );
        assert_eq!(printable("plain \\ \"text\""), "plain \\ \"text\"");
        assert_eq!(printable(&"x".repeat(5000)).len(), MAX_CHARACTERS + 3);
    }

    #[test]
    fn nothing_passes_that_a_terminal_obeys() {
        bolero::check!().with_type::<String>().for_each(|text| {
            let shown = printable(text);
            assert!(shown.chars().all(is_harmless), "{shown:?}");
        });
    }
}
