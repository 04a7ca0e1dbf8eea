//! Every rule broken once, in small crates made for it.

use std::{fs, path::Path};

use crate::{package::Package, picture, rules};

/// What is told about a crate `shop` of these files.
fn told(files: &[(&str, &str)]) -> String {
    with_crate(files, |package| rules::report(&rules::findings(package)))
}

fn with_crate<T>(files: &[(&str, &str)], look: impl FnOnce(&Package) -> T) -> T {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join("shop/src").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    look(&Package::read(root.path(), Path::new("shop")).unwrap())
}

/// Asserts what is told, but for the advice above it.
fn check(files: &[(&str, &str)], expected: &[&str]) {
    let told = told(files);
    let lines: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    assert_eq!(lines, expected, "{told}");
}

#[test]
fn a_crate_in_order_has_nothing_to_tell() {
    let files = [
        ("lib.rs", "mod goods;\nmod till;\npub use till::Till;\n"),
        ("goods.rs", "pub struct Goods;\n"),
        ("till/mod.rs", "mod drawer;\nmod receipt;\npub use receipt::Till;\n"),
        ("till/drawer.rs", "use crate::goods::Goods;\npub struct Drawer(Goods);\n"),
        ("till/receipt.rs", "use crate::till::drawer::Drawer;\npub struct Till(Drawer);\n"),
        ("main.rs", "use shop::Till;\nmod open;\n"),
        ("open.rs", "use shop::Till;\npub fn open(_: Till) {}\n"),
    ];
    check(&files, &[]);
}

#[test]
fn an_import_of_a_later_folder() {
    let goods = "use crate::till::{Till, Receipt as Slip};\n\
                 fn price() { crate::till::rounded(); println!(\"{}\", crate::till::VAT) }\n";
    let files = [("lib.rs", "mod goods;\nmod till;\n"), ("goods.rs", goods), ("till.rs", "pub struct Till;\n")];
    check(&files, &["shop: goods -> till: names Receipt, Till, VAT, rounded (shop/src/goods.rs:1)"]);
    assert!(told(&files).starts_with("A folder imports one that comes later"));
}

#[test]
fn tests_may_import_what_they_like() {
    let goods = "#[cfg(test)]\nuse crate::till::Till;\n#[cfg(test)]\nmod tests {\n    use super::*;\n    \
                 use crate::till::Till;\n}\n";
    let files = [("lib.rs", "mod goods;\nmod till;\n"), ("goods.rs", goods), ("till.rs", "pub struct Till;\n")];
    check(&files, &[]);
}

#[test]
fn the_names_of_modules_in_scope_lead_on() {
    let goods = "use crate::{till as desk};\nfn price() { desk::rounded() }\nconst N: u8 = 1;\n";
    let files = [("lib.rs", "mod goods;\nmod till;\n"), ("goods.rs", goods), ("till.rs", "pub fn rounded() {}\n")];
    check(&files, &["shop: goods -> till: names rounded (shop/src/goods.rs:1)"]);
}

#[test]
fn programs_may_import_all_of_the_library_and_have_an_order_too() {
    let files = [
        ("lib.rs", "pub mod goods;\n"),
        ("goods.rs", "pub struct Goods;\n"),
        ("main.rs", "mod open;\nmod close;\nfn main() {}\n"),
        ("open.rs", "use shop::goods::Goods;\nuse crate::close::Late;\n"),
        ("close.rs", "pub struct Late;\n"),
    ];
    check(&files, &["shop: open -> close: names Late (shop/src/open.rs:2)"]);
}

#[test]
fn a_circle_of_two_files() {
    let files = [
        ("lib.rs", "mod till;\n"),
        ("till/mod.rs", "mod drawer;\nmod receipt;\n"),
        ("till/drawer.rs", "use crate::till::receipt::Receipt;\npub struct Drawer;\n"),
        ("till/receipt.rs", "use crate::till::drawer::Drawer;\npub struct Receipt;\n"),
    ];
    let expected = [
        "shop: 2 files in a circle: till::drawer, till::receipt",
        "    till::drawer -> till::receipt: names Receipt (shop/src/till/drawer.rs:1)",
        "    till::receipt -> till::drawer: names Drawer (shop/src/till/receipt.rs:1)",
    ];
    check(&files, &expected);
}

#[test]
fn a_circle_of_three_files_through_a_facade() {
    let files = [
        ("lib.rs", "mod goods;\nmod price;\nmod till;\n"),
        ("goods/mod.rs", "mod shelf;\npub use shelf::Shelf;\n"),
        ("goods/shelf.rs", "use crate::price::Price;\npub struct Shelf;\n"),
        ("price.rs", "use crate::till::Till;\npub struct Price;\n"),
        ("till.rs", "use crate::goods::Shelf;\npub struct Till;\n"),
    ];
    let expected = [
        "shop: goods -> price: names Price (shop/src/goods/shelf.rs:1)",
        "shop: price -> till: names Till (shop/src/price.rs:1)",
        "shop: 3 files in a circle: goods::shelf, price, till",
        "    goods::shelf -> price: names Price (shop/src/goods/shelf.rs:1)",
        "    price -> till: names Till (shop/src/price.rs:1)",
        "    till -> goods::shelf: names Shelf (shop/src/till.rs:1)",
    ];
    check(&files, &expected);
}

#[test]
fn a_circle_of_folders_within_a_folder() {
    let files = [
        ("lib.rs", "mod till;\n"),
        ("till/mod.rs", "mod cash;\nmod card;\n"),
        ("till/cash/mod.rs", "pub mod coin;\npub mod note;\n"),
        ("till/cash/coin.rs", "use crate::till::card::Card;\n"),
        ("till/cash/note.rs", "pub struct Note;\n"),
        ("till/card.rs", "use crate::till::cash::note::Note;\npub struct Card;\n"),
    ];
    let expected = [
        "shop: 2 folders in a circle: till::card, till::cash",
        "    till::cash -> till::card: names Card (shop/src/till/cash/coin.rs:1)",
        "    till::card -> till::cash: names Note (shop/src/till/card.rs:1)",
    ];
    check(&files, &expected);
}

#[test]
fn an_import_by_super() {
    let drawer = "use super::receipt::{self, Slip};\nmod within {\n    use super::Slip;\n}\n\
                  fn g() { super::receipt::print() }\n";
    let files = [
        ("lib.rs", "mod till;\n"),
        ("till/mod.rs", "mod drawer;\nmod receipt;\n"),
        ("till/drawer.rs", drawer),
        ("till/receipt.rs", "pub struct Slip;\npub fn print() {}\n"),
    ];
    let expected = [
        "shop/src/till/drawer.rs:1: super::receipt, super::receipt::Slip",
        "shop/src/till/drawer.rs:5: super::receipt::print",
    ];
    check(&files, &expected);
}

#[test]
fn an_import_of_the_own_facade() {
    let drawer = "use crate::till::{Till, Slip};\nfn f() { crate::till::open() }\n";
    let files = [
        ("lib.rs", "mod till;\n"),
        ("till/mod.rs", "mod drawer;\nmod receipt;\npub use receipt::Slip;\npub struct Till;\npub fn open() {}\n"),
        ("till/drawer.rs", drawer),
        ("till/receipt.rs", "pub struct Slip;\n"),
    ];
    let expected = [
        "shop/src/till/drawer.rs:1: crate::till::Till, crate::till::Slip",
        "shop/src/till/drawer.rs:2: crate::till::open",
    ];
    check(&files, &expected);
}

#[test]
fn a_file_that_is_too_long() {
    let long = "const _: () = ();\n".repeat(450);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    const _: () = ();\n".repeat(100));
    check(&[("lib.rs", "mod goods;\n"), ("goods.rs", &format!("{long}{tests}"))], &[]);
    let over = format!("{long}const _: () = ();\n{tests}");
    check(&[("lib.rs", "mod goods;\n"), ("goods.rs", &over)], &["shop/src/goods.rs: 451 lines"]);
}

#[test]
fn a_function_that_is_too_long() {
    let function = |lines: usize| {
        format!(
            "struct Shop;\nimpl Shop {{\n    /// Opens.\n    fn open() {{\n{}    }}\n}}\n",
            "        f();\n".repeat(lines - 2)
        )
    };
    check(&[("lib.rs", &function(80))], &[]);
    check(&[("lib.rs", &function(81))], &["shop/src/lib.rs:4: Shop::open has 81 lines"]);
}

#[test]
fn a_comment_that_is_too_wide() {
    let wide = format!("    // {}é\n", "e".repeat(93));
    let text = format!("fn open() {{\n{}{wide}    f(\"\n{wide}\");\n}}\n", wide.replacen("ee", "e", 1));
    check(&[("lib.rs", &text)], &["shop/src/lib.rs:3: 101 columns"]);
}

#[test]
fn the_drawing_and_a_page_that_has_another_one() {
    let files = [
        ("lib.rs", "/// What is sold.\n/// And more.\nmod goods;\nmod till;\n"),
        ("goods/mod.rs", "//! Not this.\npub struct Goods;\n"),
        ("till.rs", "//! Where it is paid.\nuse crate::goods::Goods;\n"),
    ];
    let drawing = with_crate(&files, |package| picture::draw(std::slice::from_ref(package)));
    let expected = "**shop** (`shop/src/`)\n\n```text\n\
                    goods/  What is sold.\n\
                    till    Where it is paid.\n        uses: goods\n```\n";
    assert_eq!(drawing, expected);

    let page = "# A\n<!-- folders: begin -->\nold\n<!-- folders: end -->\n# B\n";
    let renewed = picture::renewed(page, &drawing).unwrap();
    assert_eq!(picture::renewed(&renewed, &drawing).unwrap(), renewed);
    assert!(renewed.starts_with("# A\n") && renewed.ends_with("<!-- folders: end -->\n# B\n"), "{renewed}");
    let told = picture::stale(page, &renewed);
    assert!(told.contains("ARCHITECTURE=write cargo test -p tests --test architecture"), "{told}");
    assert!(told.contains("architecture.md:3\n  it says:   old\n"), "{told}");
    assert!(picture::renewed("# A\n", &drawing).is_err());
}
