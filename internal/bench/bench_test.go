package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestMain lets the test binary be the server and client processes that the
// orchestrator starts.
func TestMain(m *testing.M) {
	if isChild() {
		os.Exit(childMain())
	}
	os.Exit(m.Run())
}

// Every goal and scenario names what exists, so that no row stays empty by a
// slip of the pen.
func TestTablesAreConsistent(t *testing.T) {
	known := make(map[string]bool)
	for _, s := range scenarios {
		known[s.name] = true
		for _, name := range s.allPeers() {
			if _, err := peerByName(name); err != nil {
				t.Errorf("scenario %s: %v", s.name, err)
			}
		}
	}
	for _, g := range goals {
		if !known[g.scenario] {
			t.Errorf("goal %q: no scenario %q", g.title(), g.scenario)
			continue
		}
		for _, name := range []string{g.peer, g.base} {
			if name != "" && !strings.Contains(" "+strings.Join(scenarioByName(g.scenario).allPeers(), " ")+" ", " "+name+" ") {
				t.Errorf("goal %q: scenario %s does not measure %s", g.title(), g.scenario, name)
			}
		}
	}
}

// TestSmoke measures every peer in every scenario for a moment. What comes out
// as figures is not looked at, only that each was obtained.
func TestSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("starts some 60 processes")
	}
	var out, progress bytes.Buffer
	if err := run([]string{"-rounds", "1", "-window", "10ms", "-quick"}, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	for _, s := range scenarios {
		if !strings.Contains(out.String(), "| "+s.name) {
			t.Errorf("report has nothing of %s", s.name)
		}
	}
	if n := strings.Count(out.String(), "not measured"); n > 0 {
		t.Errorf("%d goals are not measured:\n%s", n, out.String())
	}
}

func TestRunRefuses(t *testing.T) {
	for _, args := range [][]string{{"-only", "("}, {"-peers", "("}, {"surplus"}, {"-rounds", "many"}} {
		var out, progress bytes.Buffer
		if err := run(args, &out, &progress); err == nil {
			t.Errorf("run(%q) succeeded", args)
		}
		if out.Len() > 0 {
			t.Errorf("run(%q) wrote a report", args)
		}
	}
}

// A child that gets a command it does not know, or none, ends in order.
func TestChild(t *testing.T) {
	var out bytes.Buffer
	if err := runChild("client raw-pp "+t.TempDir()+"/none", strings.NewReader(`{"Op":"fly"}{"Op":"open"}{"Op":"usage"}`), &out); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"unknown operation", "no such file", `"Error":""`} {
		line, err := out.ReadString('\n')
		if err != nil || !strings.Contains(line, want) {
			t.Errorf("reply %d = %q, %v; want %q in it", i, line, err, want)
		}
	}
	for _, spec := range []string{"client", "client nobody /none"} {
		if err := runChild(spec, strings.NewReader(""), &out); err == nil {
			t.Errorf("runChild(%q) succeeded", spec)
		}
	}
}
