"""Gate: no function is longer than 70 lines of code, no file of code longer than 500 lines, no function too branched.

A function's lines are those of its body without blank lines and comments. A branch is an `if`, a loop, a `match` or
`switch`, or a further condition (`&&`, `||`). Functions are measured in Rust, Go, Python and shell; files in all.
"""

import ast
import bisect
import dataclasses
import re

import gates

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500
# More can be neither tested nor read in one piece.
BRANCHES_MAX = 25
TOP_SHOWN = 3
CODE = (".rs", ".go", ".py", ".sh", ".sql", ".proto", ".ts", ".tsx", ".js", ".mjs", ".java", ".c", ".h", ".cc", ".cpp", ".hpp")
GENERATED = re.compile(r"(?:Code generated .* DO NOT EDIT|@generated)")
# Comments, then strings: plain, raw (Rust, Go) and characters, told from Rust's lifetimes by their closing quote.
LEXEMES = re.compile(
    r"(?P<comment>//[^\n]*|/\*.*?\*/)"
    r"|(?P<string>\b[bc]?r(?P<hashes>#*)\".*?\"(?P=hashes)|[bc]?\"(?:\\.|[^\"\\])*\"|`[^`]*`|b?'(?:\\[^\n]{1,10}?|[^'\\\n])')",
    re.DOTALL,
)
RUST_FUNCTION = re.compile(r"\bfn\s+(\w+)")
GO_FUNCTION = re.compile(r"^func\s+(?:\([^)]*\)\s*)?(\w+)", re.MULTILINE)
SHELL_FUNCTION = re.compile(r"^(\w+)\s*\(\)\s*\{[ \t]*\n(.*?)^\}", re.MULTILINE | re.DOTALL)
BRANCH = re.compile(r"\b(?:if|for|while|loop|match|switch|case\s+\S+\s+in|elif|until|select)\b|&&|\|\|")


@dataclasses.dataclass
class Function:
    """A function with its size; `where` is a path with the line of its name."""

    name: str
    where: str
    lines: int
    branches: int


def check(repository):
    result = gates.Result("")
    functions, files = [], []
    for name, text in repository.texts(*CODE):
        if GENERATED.search(text[:2000]):
            continue
        files.append((len(text.splitlines()), name))
        functions += functions_of(result, name, text)
    for lines, name in sorted(files, reverse=True):
        if lines > FILE_LINES_MAX:
            result.find(name, f"{lines} lines, at most {FILE_LINES_MAX}")
    for function in sorted(functions, key=lambda function: -function.lines):
        if function.lines > FUNCTION_LINES_MAX:
            result.find(function.where, f"`{function.name}` has {function.lines} lines, at most {FUNCTION_LINES_MAX}")
        if function.branches > BRANCHES_MAX:
            result.find(function.where, f"`{function.name}` has {function.branches} branches, at most {BRANCHES_MAX}")
    result.summary = f"{gates.count(functions, 'function')} in {gates.count(files, 'file')} of code"
    result.top = worst(functions, files)
    return result


def worst(functions, files):
    if not functions:
        return []
    lines = sorted(function.lines for function in functions)
    longest = sorted(functions, key=lambda function: -function.lines)[:TOP_SHOWN]
    branched = sorted(functions, key=lambda function: -function.branches)[:TOP_SHOWN]
    return [
        f"median function: {lines[len(lines) // 2]} lines; nine of ten have at most {lines[len(lines) * 9 // 10]}",
        "longest functions: " + ", ".join(f"`{function.name}` {function.lines} ({function.where})" for function in longest),
        "most branches: " + ", ".join(f"`{function.name}` {function.branches} ({function.where})" for function in branched),
        "longest files: " + ", ".join(f"{name} {number}" for number, name in sorted(files, reverse=True)[:TOP_SHOWN]),
    ]


def functions_of(result, name, text):
    if name.endswith(".rs"):
        return braced(name, text, RUST_FUNCTION)
    if name.endswith(".go"):
        return braced(name, text, GO_FUNCTION)
    if name.endswith(".sh"):
        return [
            Function(match.group(1), f"{name}:{gates.line_of(text, match.start())}", *measured(re.sub(r"(?m)^\s*#.*", "", match.group(2))))
            for match in SHELL_FUNCTION.finditer(text)
        ]
    return python(result, name, text) if name.endswith(".py") else []


def measured(body):
    """Lines with code and branches of a body without comments."""
    return sum(1 for line in body.splitlines() if line.strip()), len(BRANCH.findall(body))


def braced(name, text, function):
    """Functions of a language with braces."""
    code = LEXEMES.sub(lambda match: re.sub(r"[^\n]", " " if match.group("comment") else "_", match.group(0)), text)
    ends = [match.start() for match in re.finditer("\n", code)]
    found = []
    for match in function.finditer(code):
        body = body_of(code, match.end())
        if body is not None:
            where = f"{name}:{bisect.bisect_left(ends, match.start()) + 1}"
            found.append(Function(match.group(1), where, *measured(body)))
    return found


def body_of(code, start):
    """What stands between the braces of a function; None for one without a body."""
    depth, opened = 0, None
    for match in re.compile(r"[;{}()\[\]]").finditer(code, start):
        sign = match.group(0)
        if opened is None and sign in "([":
            depth += 1
        elif opened is None and sign in ")]":
            depth -= 1
        elif opened is None and depth == 0 and sign == ";":
            return None
        elif sign == "{":
            opened = match.end() if opened is None and depth == 0 else opened
            depth += 1
        elif sign == "}":
            depth -= 1
            if depth == 0 and opened is not None:
                return code[opened : match.start()]
    return None


def python(result, name, text):
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        result.find(name, f"it is not Python: {error}")
        return []
    lines = text.splitlines()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = lines[node.body[0].lineno - 1 : node.end_lineno]
            code = [line for line in body if line.strip() and not line.strip().startswith("#")]
            branches = sum(isinstance(part, (ast.If, ast.For, ast.While, ast.IfExp, ast.BoolOp, ast.comprehension)) for part in ast.walk(node))
            found.append(Function(node.name, f"{name}:{node.lineno}", len(code), branches))
    return found


if __name__ == "__main__":
    gates.main(check)
