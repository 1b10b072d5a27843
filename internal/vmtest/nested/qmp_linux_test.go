package nested

import (
	"encoding/json"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// A monitor speaks QMP, the protocol in which QEMU is told what to do
// (docs/interop/qmp-spec.txt in its source): one JSON object a line.
type monitor struct {
	conn    *net.UnixConn
	answers *json.Decoder
}

// monitor connects to the guest's QEMU. The caller must close it.
func (g *guest) monitor(t *testing.T) *monitor {
	t.Helper()
	for deadline := time.Now().Add(callLimit); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: g.control, Net: "unix"})
		if err == nil {
			m := &monitor{conn, json.NewDecoder(conn)}
			if err := conn.SetDeadline(time.Now().Add(2 * callLimit)); err != nil {
				t.Fatal(err)
			}
			var greeting struct{ QMP json.RawMessage }
			if err := m.answers.Decode(&greeting); err != nil || greeting.QMP == nil {
				t.Fatalf("QEMU's greeting: %v", err)
			}
			m.do(t, "qmp_capabilities", nil, nil)
			return m
		}
		if time.Now().After(deadline) {
			t.Fatalf("no answer from QEMU: %v", err)
		}
	}
}

func (m *monitor) close() { m.conn.Close() }

// do executes a command, with a descriptor if file is not nil, and returns what
// QEMU answers.
func (m *monitor) do(t *testing.T, command string, arguments any, file *os.File) json.RawMessage {
	t.Helper()
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		t.Fatal(err)
	}
	var rights []byte
	if file != nil {
		rights = syscall.UnixRights(int(file.Fd()))
	}
	if _, _, err := m.conn.WriteMsgUnix(request, rights, nil); err != nil {
		t.Fatalf("QMP %s: %v", command, err)
	}
	for {
		var answer struct {
			Return json.RawMessage
			Error  json.RawMessage
			Event  string
		}
		if err := m.answers.Decode(&answer); err != nil {
			t.Fatalf("QMP %s: %v", command, err)
		}
		switch {
		case answer.Error != nil:
			t.Fatalf("QMP %s: %s", command, answer.Error)
		case answer.Event == "":
			return answer.Return
		}
	}
}

// status waits until a query says one of the words, and fails at another that
// says that it will not.
func (m *monitor) status(t *testing.T, query, want, bad string) {
	t.Helper()
	for deadline := time.Now().Add(callLimit); ; time.Sleep(50 * time.Millisecond) {
		var answer struct{ Status string }
		raw := m.do(t, query, nil, nil)
		if err := json.Unmarshal(raw, &answer); err != nil {
			t.Fatalf("QMP %s: %v: %s", query, err, raw)
		}
		if answer.Status == want {
			return
		}
		if answer.Status == bad || time.Now().After(deadline) {
			t.Fatalf("QMP %s: %s, want %s", query, raw, want)
		}
	}
}

// save stops the guest and writes its state to a file, from which restore lets
// it go on, any number of times.
func (g *guest) save(t *testing.T) {
	t.Helper()
	start := time.Now()
	f, err := os.Create(g.state)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := g.monitor(t)
	defer m.close()
	m.do(t, "stop", nil, nil)
	m.do(t, "migrate-set-parameters", map[string]any{"max-bandwidth": 1 << 40}, nil)
	m.do(t, "getfd", map[string]any{"fdname": "state"}, f)
	m.do(t, "migrate", map[string]any{"uri": "fd:state"}, nil)
	m.status(t, "query-migrate", "completed", "failed")
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("saved %d MiB in %v", info.Size()>>20, time.Since(start).Round(time.Millisecond))
}

// restore starts the guest where save has stopped it. The one that ran until
// now is killed: it may be the same or another time of it.
func (g *guest) restore(t *testing.T) {
	t.Helper()
	g.kill()
	start := time.Now()
	f, err := os.Open(g.state)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g.run(t, g.cpu, g.quirks, f)
	m := g.monitor(t)
	defer m.close()
	m.status(t, "query-status", "paused", "internal-error") // it was, when it was saved
	m.do(t, "cont", nil, nil)
	t.Logf("restored in %v", time.Since(start).Round(time.Millisecond))
}
