package main

import (
	"bufio"
	"strings"
	"unicode/utf8"
)

// Bounds of what is held of a table.
const (
	// firstRows is how many rows set the widths of the columns.
	firstRows = 2000
	// firstBytes is how much text they have at most, and how much of a text is shown.
	firstBytes = 1 << 20
)

// table prints rows in columns. The first rows, which it holds, set how wide a column
// is; a cell of a later row that is wider pushes the ones after it to the right.
type table struct {
	out    *bufio.Writer
	rows   [][]string // nil: the widths are set
	right  []bool     // columns of numbers
	bytes  int
	widths []int
	set    bool
}

// add prints a row. Its cells are not changed afterwards.
func (t *table) add(cells []string) error {
	if t.set {
		return t.print(cells)
	}
	t.rows = append(t.rows, cells)
	for i, cell := range cells {
		t.bytes += len(cell)
		if i == len(t.widths) {
			t.widths = append(t.widths, 0)
		}
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cell))
	}
	if len(t.rows) >= firstRows || t.bytes >= firstBytes {
		return t.flush()
	}
	return nil
}

// flush prints the rows that are held.
func (t *table) flush() error {
	rows := t.rows
	t.rows, t.set = nil, true
	for _, cells := range rows {
		if err := t.print(cells); err != nil {
			return err
		}
	}
	return t.out.Flush()
}

func (t *table) print(cells []string) error {
	for i, cell := range cells {
		width := 0
		if i < len(t.widths) {
			width = t.widths[i]
		}
		space := strings.Repeat(" ", max(width-utf8.RuneCountInString(cell), 0))
		if i < len(t.right) && t.right[i] {
			cell, space = space+cell, ""
		}
		t.out.WriteString(cell)
		if i == len(cells)-1 {
			break
		}
		t.out.WriteString(space + "  ")
	}
	return t.out.WriteByte('\n')
}
