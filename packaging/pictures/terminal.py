"""A terminal, as far as `cachefs top` needs one: runs a program in it, and draws what it shows."""

import fcntl
import html
import os
import pty
import re
import select
import struct
import termios
import time

PALETTE = {31: "#ff7b72", 32: "#56d364", 33: "#e3b341", 91: "#ff7b72", 92: "#56d364", 93: "#e3b341"}
INK, PAPER = "#d5dde3", "#10171c"
SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b.|([^\x1b])", re.DOTALL)
# The sixteen colours by number, as crossterm names them.
INDEXED = {1: 31, 2: 32, 3: 33, 9: 91, 10: 92, 11: 93}


class Screen:
    def __init__(self, columns, rows):
        self.cells = [[(" ", frozenset(), None) for _ in range(columns)] for _ in range(rows)]
        self.row = self.column = 0
        self.style, self.colour = set(), None

    def feed(self, text):
        for words, end, letter in SEQUENCE.findall(text):
            if letter:
                self.put(letter)
            elif end in "Hf" and end:
                row, column = (words + ";").split(";")[:2]
                self.row, self.column = int(row or 1) - 1, int(column or 1) - 1
            elif end == "m":
                self.shade([int(word or 0) for word in words.split(";")])

    def put(self, letter):
        if letter >= " " and self.row < len(self.cells) and self.column < len(self.cells[0]):
            self.cells[self.row][self.column] = (letter, frozenset(self.style), self.colour)
            self.column += 1

    def shade(self, codes):
        while codes:
            code = codes.pop(0)
            if code == 0:
                self.style, self.colour = set(), None
            elif code in (1, 2):
                self.style.add(code)
            elif code == 22:
                self.style -= {1, 2}
            elif code == 39:
                self.colour = None
            elif code in (38, 48):
                kind = codes.pop(0)
                value = codes.pop(0) if kind == 5 else [codes.pop(0) for _ in range(3)][0]
                if code == 38:
                    self.colour = PALETTE.get(INDEXED.get(value))
            elif code in PALETTE:
                self.colour = PALETTE[code]


def run(command, columns, rows, seconds):
    """What a program shows after some time on a terminal of that size; `q` ends it."""
    pid, master = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(command[0], [str(word) for word in command])
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    output, until = b"", time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([master], [], [], left)[0]:
            output += os.read(master, 65536)
    # Without the end, at which the screen is given back.
    screen = Screen(columns, rows)
    screen.feed(output.decode(errors="replace"))
    os.write(master, b"q")
    try:
        while os.read(master, 65536):
            pass
    except OSError:
        pass
    os.waitpid(pid, 0)
    return screen


def svg(screen, title):
    """The same as a picture, in which each run of letters is as wide as in a terminal."""
    wide, high = 8.4, 18
    width, height = len(screen.cells[0]) * wide + 24, len(screen.cells) * high + 24
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">'
           f"<title>{title}</title><rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{PAPER}\"/>"
           '<g font-family="DejaVu Sans Mono,Menlo,Consolas,monospace" font-size="14" xml:space="preserve">']
    for number, row in enumerate(screen.cells):
        start = 0
        while start < len(row):
            end = start
            while end < len(row) and row[end][1:] == row[start][1:]:
                end += 1
            text = "".join(cell[0] for cell in row[start:end])
            _, style, colour = row[start]
            more = ' font-weight="bold"' if 1 in style else ' opacity=".6"' if 2 in style else ""
            # Piece by piece: several spaces would become one.
            for piece in re.finditer(r"\S+(?: \S+)*", text):
                x, y, words = 12 + (start + piece.start()) * wide, 12 + high * number + 14, piece.group()
                out.append(f'<text x="{x:.1f}" y="{y}" textLength="{len(words) * wide:.1f}" '
                           f'fill="{colour or INK}"{more}>{html.escape(words)}</text>')
            start = end
    return "\n".join(out + ["</g></svg>", ""])
