package rpctest

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// stateTable returns the table "Who may send what" of PROTOCOL.md: what becomes of a
// frame, by "FRAME from SIDE in STATE".
func stateTable(t *testing.T) map[string]string {
	t.Helper()
	doc, err := os.ReadFile("../../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(doc), "### Who may send what")
	if !ok {
		t.Fatal("there is no table")
	}
	text, _, _ = strings.Cut(text, "\n## ")
	table := map[string]string{}
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 6 || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| frame ") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		for i, state := range []string{"never", "open", "half", "over"} {
			table[cells[0]+" from "+cells[1]+" in "+state] = cells[2+i]
		}
	}
	if len(table) != 12*4 {
		t.Fatalf("%d cells: %v", len(table), table)
	}
	return table
}

// frameFor returns a frame of that name for a stream, as short as it can be.
func frameFor(name string, stream uint32) []byte {
	switch name {
	case "OPEN":
		return open(stream, 0, "W")
	case "HEADER":
		return fr(tHEADER, 0, stream)
	case "DATA":
		return fr(tDATA, fMSG, stream, 0x0a, 1, 'x')
	case "END":
		return fr(tEND, 0, stream)
	case "RESET":
		return fr(tRESET, 0, stream, u32(6)...)
	}
	return fr(tCREDIT, 0, stream, u32(5000)...)
}

// TestStates sends each frame in each state, to a server and to a client, and compares
// what becomes of it with the table.
func TestStates(t *testing.T) {
	for cell, outcome := range stateTable(t) {
		name, rest, _ := strings.Cut(cell, " from ")
		side, state, _ := strings.Cut(rest, " in ")
		t.Run(cell, func(t *testing.T) {
			stream := uint32(1)
			if state == "never" {
				stream = 9
			}
			if side == "client" {
				checkServer(t, state, outcome, frameFor(name, stream))
			} else {
				checkClient(t, state, outcome, frameFor(name, stream))
			}
		})
	}
}

func checkServer(t *testing.T, state, outcome string, f []byte) {
	p := rawClient(t, nil)
	p.hello()
	p.greeted()
	switch state {
	case "open":
		p.send(open(1, 0, "W"))
	case "half":
		p.send(open(1, fCLOSE, "W"))
	case "over":
		p.send(open(1, 0, "Nope"))
		p.want(tEND)
	}
	p.send(f)
	switch outcome {
	case "PROTOCOL":
		p.wantGoAway(cPROTOCOL)
		return
	case "ends":
		p.wantAlive()
		p.send(fr(tDATA, fMSG, 1)) // late now, and no fault
	case "opens":
		p.send(fr(tCREDIT, 0, 9, u32(5000)...))
	case "taken", "ignored":
	default:
		t.Fatalf("what is %q?", outcome)
	}
	p.wantAlive()
}

func checkClient(t *testing.T, state, outcome string, f []byte) {
	p := newRawServer(t, nil)
	p.stream(state == "half")
	p.accept()
	p.want(tOPEN)
	if state == "half" {
		p.want(tDATA)
	}
	p.hello()
	if state == "over" {
		p.send(fr(tRESET, 0, 1, u32(6)...))
	}
	p.wantAlive()
	p.send(f)
	if outcome == "PROTOCOL" {
		p.wantGoAway(cPROTOCOL)
		return
	}
	p.wantAlive()
	switch outcome {
	case "ends":
		p.send(fr(tHEADER, 0, 1), fr(tHEADER, 0, 1)) // late now, and no fault
		p.wantAlive()
	case "taken":
		p.send(fr(tEND, 0, 1))
		p.wantAlive()
	case "ignored":
	default:
		t.Fatalf("what is %q?", outcome)
	}
}

// TestStatusOfEnds is what a caller gets in each way that a stream ends.
func TestStatusOfEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		frames [][]byte
		want   codes.Code
	}{
		"END":                      {[][]byte{fr(tEND, fMSG, 1)}, codes.OK},
		"END without a message":    {[][]byte{fr(tEND, 0, 1)}, codes.Internal},
		"END with a code":          {[][]byte{fr(tEND, fHEAD, 1, head(item(5, "\x05"))...)}, codes.NotFound},
		"END with a code too high": {[][]byte{fr(tEND, fHEAD, 1, head(item(5, "\xff\xff\xff\xff\xff\x01"))...)}, codes.Unknown},
		"END with a long number":   {[][]byte{fr(tEND, fHEAD, 1, head(item(5, "\x85\x80\x00"))...)}, codes.NotFound},
		"END with a code twice":    {[][]byte{fr(tEND, fHEAD, 1, head(append(item(5, "\x05"), item(5, "\x06")...))...)}, codes.AlreadyExists},
		"END with OPEN's items":    {[][]byte{fr(tEND, fHEAD|fMSG, 1, head(item(1, "/a.B/C"))...)}, codes.OK},
		"END with late metadata":   {[][]byte{fr(tHEADER, 0, 1), fr(tEND, fHEAD|fMSG, 1, head(item(3, "\x01k\x01v"))...)}, codes.OK},
		"END within a message":     {[][]byte{fr(tDATA, fHEAD|fMSG|fMORE, 1, head(item(10, "\x05"), 1)...), fr(tEND, 0, 1)}, codes.Internal},
		"RESET with CANCELLED":     {[][]byte{fr(tRESET, 0, 1, u32(6)...)}, codes.Canceled},
		"RESET with DEADLINE":      {[][]byte{fr(tRESET, 0, 1, u32(7)...)}, codes.DeadlineExceeded},
		"RESET with RESOURCE":      {[][]byte{fr(tRESET, 0, 1, u32(8)...)}, codes.ResourceExhausted},
		"RESET with INTERNAL":      {[][]byte{fr(tRESET, 0, 1, u32(2)...)}, codes.Internal},
		"RESET with an unknown":    {[][]byte{fr(tRESET, 0, 1, u32(4711)...)}, codes.Internal},
		"GOAWAY with FLOOD":        {[][]byte{fr(tGOAWAY, 0, 0, append(u32(1), u32(9)...)...)}, codes.ResourceExhausted},
		"GOAWAY with PROTOCOL":     {[][]byte{fr(tGOAWAY, 0, 0, append(u32(1), u32(1)...)...)}, codes.Internal},
		"GOAWAY with TIMEOUT":      {[][]byte{fr(tGOAWAY, 0, 0, append(u32(1), u32(10)...)...)}, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			p := begun(t, nil)
			p.send(tc.frames...)
			p.wantStatus(tc.want)
		})
	}
	t.Run("the end of the connection", func(t *testing.T) {
		p := begun(t, nil)
		p.nc.Close()
		p.wantStatus(codes.Unavailable)
	})
}

// TestServerAnswers is what a server makes of calls that PROTOCOL.md says something
// particular of.
func TestServerAnswers(t *testing.T) {
	codeOf := func(t *testing.T, f frame) string {
		n, w := binary.Uvarint(f.payload)
		return items(t, f.payload[w:w+int(n)])[5]
	}
	for name, tc := range map[string]struct {
		open []byte
		want string // code
	}{
		"a method that is not there":    {open(1, fCLOSE, "Nope"), "\x0c"},
		"a malformed name":              {fr(tOPEN, fHEAD|fCLOSE, 1, head(item(1, "C"))...), "\x0c"},
		"a name that is no text":        {fr(tOPEN, fHEAD|fCLOSE, 1, head(item(1, "/\xff/C"))...), "\x0c"},
		"a codec that is not there":     {open(1, fMSG|fCLOSE, "C", item(8, "morse")...), "\x0c"},
		"no time":                       {open(1, fMSG|fCLOSE, "C", item(2, "\x00")...), "\x04"},
		"no message":                    {open(1, fCLOSE, "C"), "\x0d"},
		"too much metadata":             {open(1, fMSG|fCLOSE, "C", item(3, "\x05k-bin\x80\x80\x01"+strings.Repeat("v", 16<<10))...), "\x08"},
		"items of END":                  {open(1, fMSG|fCLOSE, "C", item(5, "\x05")...), "\x00"},
		"an item twice":                 {fr(tOPEN, fHEAD|fMSG|fCLOSE, 1, head(append(item(1, "/a.B/Nope"), item(1, "/a.B/C")...))...), "\x00"},
		"length where it is not needed": {open(1, fMSG|fCLOSE, "C", item(10, "\x63")...), "\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			p := rawClient(t, nil)
			p.hello()
			p.greeted()
			p.send(tc.open)
			f := p.want(tEND)
			if f.flags&fHEAD == 0 {
				if tc.want != "\x00" {
					t.Errorf("OK, want code %d", tc.want[0])
				}
				return
			}
			if got := codeOf(t, f); got != tc.want {
				t.Errorf("code %q, want %q", got, tc.want)
			}
		})
	}
	t.Run("a failed call defines its number", func(t *testing.T) {
		p := rawClient(t, nil)
		p.hello()
		p.greeted()
		p.send(numbered(3, open(1, fMSG|fCLOSE, "C", item(2, "\x00")...)))
		p.want(tEND)
		p.send(numbered(3, fr(tOPEN, fMSG|fCLOSE, 2)))
		if f := p.want(tEND); f.stream != 2 || f.flags&fHEAD != 0 {
			t.Errorf("got %+v", f)
		}
	})
	t.Run("ids may be left out, up to the greatest", func(t *testing.T) {
		p := rawClient(t, nil)
		p.hello()
		p.greeted()
		p.send(open(1<<32-1, fMSG|fCLOSE, "C"))
		if f := p.want(tEND); f.stream != 1<<32-1 {
			t.Errorf("got %+v", f)
		}
		p.send(fr(tRESET, 0, 4, u32(6)...)) // left out: over
		p.wantAlive()
	})
	t.Run("half close closes", func(t *testing.T) {
		p := rawClient(t, nil)
		p.hello()
		p.greeted()
		p.send(open(1, 0, "W"))
		_ = p.nc.(interface{ CloseWrite() error }).CloseWrite()
		_ = p.nc.SetReadDeadline(time.Now().Add(20 * time.Second))
		p.wantEOF()
	})
}
