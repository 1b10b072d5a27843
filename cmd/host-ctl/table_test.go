package main

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestTableStreams prints a table without an end: it comes out as it comes in, in the
// columns that its first rows have set, and nothing of it is held.
func TestTableStreams(t *testing.T) {
	var out bytes.Buffer
	p := (&listing{format: "table"}).printer(&out, "A", "B", "C")
	for n := range firstRows {
		if err := p.row("", nil, fmt.Sprint(n%7), "same", "end"); err != nil {
			t.Fatal(err)
		}
	}
	if out.Len() == 0 || p.table.rows != nil {
		t.Errorf("after %d rows %d bytes are printed and %d rows held", firstRows, out.Len(), len(p.table.rows))
	}
	printed := out.Len()
	p.row("", nil, "wider than the others", "same", "end")
	p.row("", nil, "1", "same", "end")
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "A  B     C\n0  same  end\n") {
		t.Errorf("begins with %q", out.String()[:40])
	}
	if got, want := out.String()[printed:], "wider than the others  same  end\n1  same  end\n"; !strings.HasSuffix(got, want) {
		t.Errorf("ends with %q, want %q", got, want)
	}
	p = (&listing{format: "table"}).printer(&bytes.Buffer{}, "A")
	for range 20 {
		p.row("", nil, strings.Repeat("\x1b", maxText*2))
	}
	if p.table.bytes > firstBytes+8*maxText || p.table.rows != nil {
		t.Errorf("%d bytes of long cells are held", p.table.bytes)
	}
}

// TestTextIsCut prints texts that are longer than all that is shown.
func TestTextIsCut(t *testing.T) {
	long := strings.Repeat("\x01", 4<<20)
	if got := visibleLine(long); len(got) > 4*maxText+3 || !strings.HasSuffix(got, "...") {
		t.Errorf("%d bytes", len(got))
	}
	if got := visible("short"); got != "short" {
		t.Errorf("%q", got)
	}
	if got := commandLine([][]byte{[]byte("sh"), []byte(long), []byte(long)}); len(got) > 2*maxText {
		t.Errorf("a command line of %d bytes", len(got))
	}
	var out bytes.Buffer
	args := make([]string, 1<<20)
	row := processRow{PID: 7, Name: "a", Args: append([]string{"ok", long}, args...), Started: time.Now()}
	if err := writeJSON(&out, row); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 7*maxText || !strings.Contains(out.String(), `"args":["ok","`) {
		t.Errorf("%d bytes of JSON: %.100s", out.Len(), out.String())
	}
	if len(row.Args) != len(args)+2 {
		t.Error("the value itself was cut")
	}
}

// TestFailuresAreCounted adds failures without end.
func TestFailuresAreCounted(t *testing.T) {
	var f failures
	if f.add(nil); f.err() != nil {
		t.Errorf("no failure: %v", f.err())
	}
	for n := range 1000 {
		f.add(fmt.Errorf("failure %d", n))
	}
	text := f.err().Error()
	if !strings.HasPrefix(text, "failure 0\n") || !strings.HasSuffix(text, "failure 99\nand 900 more") {
		t.Errorf("%.30s ... %s", text, text[len(text)-40:])
	}
}

// TestTailIsBounded holds back a stream that has no lines.
func TestTailIsBounded(t *testing.T) {
	var out bytes.Buffer
	var pending sync.WaitGroup
	pending.Add(1)
	p := &logPart{w: &out, until: 1 << 40, tail: 5, pending: &pending}
	for range 4 * maxTail / 10_000 {
		if _, err := p.Write(make([]byte, 10_000)); err != nil {
			t.Fatal(err)
		}
	}
	held := 0
	for _, b := range p.held {
		held += cap(b)
	}
	if held > maxTail || held < maxTail-2*tailPiece {
		t.Errorf("%d bytes are held, want %d", held, maxTail)
	}
	p.Write([]byte("\na\nb\n\nc\nd"))
	if err := p.finish(); err != nil || out.String() != "a\nb\n\nc\nd" {
		t.Errorf("the last lines are %q, %v", out.String(), err)
	}
}
