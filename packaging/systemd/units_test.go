package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vsockrpc/vsockrpc/transport"
)

// A unit is what a unit file, or a drop-in, assigns: the values by section and
// key, "Section.Key", in order.
type unit map[string][]string

// readUnit parses a file as systemd.syntax(7) has it, without lines that go on in
// the next, which ours have not.
func readUnit(t *testing.T, name string) unit {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	u, section := unit{}, ""
	for n, line := range strings.Split(string(data), "\n") {
		switch line = strings.TrimSpace(line); {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[' && strings.HasSuffix(line, "]"):
			section = strings.Trim(line, "[]")
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" || strings.HasSuffix(value, `\`) {
				t.Fatalf("%s:%d: %q is no assignment", name, n+1, line)
			}
			u[section+"."+key] = append(u[section+"."+key], value)
		}
	}
	return u
}

const stateDir = "/var/lib/guest-agent" // the default of --state-dir

// promises are what each file has to say, and why somebody would miss it.
var promises = []struct {
	file, key string
	want      []string
	why       string
}{
	{"guest-agent.service", "Unit.DefaultDependencies", []string{"no"}, "it starts early"},
	{"guest-agent.service", "Unit.Before", []string{"sysinit.target shutdown.target"}, "it starts early"},
	{"guest-agent.service", "Unit.Conflicts", []string{"shutdown.target"}, "without the default dependencies nothing else stops it"},
	{"guest-agent.service", "Unit.RequiresMountsFor", []string{stateDir}, "its key and what was revoked is there, and every systemd knows the setting"},
	{"guest-agent.service", "Unit.ConditionVirtualization", []string{"!container"}, "a container's vsock is its host's"},
	{"guest-agent.service", "Unit.StartLimitIntervalSec", []string{"0"}, "it is started again for ever"},
	{"guest-agent.service", "Service.Type", []string{"notify"}, "started means that it listens"},
	{"guest-agent.service", "Service.Restart", []string{"always"}, "it is the way in"},
	{"guest-agent.service", "Service.RestartPreventExitStatus", []string{"2"}, "no restart mends a flag"},
	{"guest-agent.service", "Service.WatchdogSec", []string{"30s"}, "an agent that hangs is restarted"},
	{"guest-agent.service", "Service.KillMode", []string{"mixed"}, "the agent ends its sessions itself"},
	{"guest-agent.service", "Service.OOMScoreAdjust", []string{"-900"}, "it survives where memory runs out"},
	{"guest-agent.service", "Service.OOMPolicy", []string{"continue"}, "one session's end is not the agent's"},
	{"guest-agent.service", "Service.Delegate", []string{"memory pids cpu"}, "limits of sessions"},
	{"guest-agent.service", "Service.DelegateSubgroup", []string{"agent"}, "the cgroup that package process moves to without it"},
	{"guest-agent.service", "Service.TasksMax", []string{"infinity"}, "sessions count here"},
	{"guest-agent.service", "Service.IgnoreSIGPIPE", []string{"no"}, "yes | head ends"},
	{"guest-agent.service", "Service.KeyringMode", []string{"private"}, "keys of other services"},
	{"guest-agent.socket", "Socket.ListenStream", []string{fmt.Sprintf("vsock::%d", transport.AgentPort)}, "any CID, since it changes"},
	{"guest-agent.socket", "Socket.TriggerLimitIntervalSec", []string{"0"}, "a caller in a loop does not close it"},

	{"hardened.conf", "Service.NoNewPrivileges", []string{"yes"}, "no setuid programs"},
	{"hardened.conf", "Service.CapabilityBoundingSet", []string{"CAP_SETUID CAP_SETGID CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_NET_BIND_SERVICE CAP_SYS_RESOURCE"}, "no other capability, ever"},
	{"hardened.conf", "Service.AmbientCapabilities", []string{""}, "none for those who are not root"},
	{"hardened.conf", "Service.ProtectSystem", []string{"full"}, "/usr, /boot and /etc"},
	{"hardened.conf", "Service.SystemCallFilter", []string{"@system-service"}, "seccomp, by what is allowed"},
	{"hardened.conf", "Service.SystemCallArchitectures", []string{"native"}, "no way around the filter"},
	{"hardened.conf", "Service.ProtectControlGroups", nil, "limits of sessions"},
	{"hardened.conf", "Service.PrivateDevices", nil, "/dev/vsock"},
	{"hardened.conf", "Service.MemoryDenyWriteExecute", nil, "programs that compile themselves"},

	{"vsock-device@.service", "Service.DynamicUser", []string{"yes"}, "a user of its own"},
	{"vsock-device@.service", "Service.NoNewPrivileges", []string{"yes"}, "nor any rights, ever"},
	{"vsock-device@.service", "Service.CapabilityBoundingSet", []string{""}, "no capability"},
	{"vsock-device@.service", "Service.RestrictAddressFamilies", []string{"AF_UNIX"}, "sockets of files only"},
	{"vsock-device@.service", "Service.PrivateNetwork", []string{"yes"}, "no network"},
	{"vsock-device@.service", "Service.PrivateDevices", []string{"yes"}, "no device: it is one"},
	{"vsock-device@.service", "Service.ProtectSystem", []string{"strict"}, "changes nothing"},
	{"vsock-device@.service", "Service.MemoryDenyWriteExecute", []string{"yes"}, "the guest's memory is no code"},
	{"vsock-device@.service", "Service.SystemCallFilter", []string{"@system-service", "~@privileged @resources @keyring @setuid @memlock @timer", "@chown"}, "seccomp, by what is allowed"},
	{"vsock-device@.service", "Service.LimitCORE", []string{"0"}, "a core would have the guest's memory"},
	{"vsock-device@.service", "Service.RuntimeDirectory", []string{"vsock-device/%i"}, "where the sockets are"},

	{"look-only.conf", "Unit.Requires", []string{"guest-agent.socket"}, "the port is a privileged one"},
	{"look-only.conf", "Service.DynamicUser", []string{"yes"}, "not root"},
	{"look-only.conf", "Service.NoNewPrivileges", []string{"yes"}, "nor ever"},
	{"look-only.conf", "Service.CapabilityBoundingSet", []string{""}, "no capability"},
	{"look-only.conf", "Service.ProtectSystem", []string{"strict"}, "changes nothing"},
	{"look-only.conf", "Service.ProtectHome", []string{"read-only"}, "changes nothing"},
	{"look-only.conf", "Service.PrivateNetwork", []string{"yes"}, "no network"},
	{"look-only.conf", "Service.SystemCallFilter", []string{"@system-service"}, "seccomp, by what is allowed"},
}

func TestPromises(t *testing.T) {
	units := make(map[string]unit)
	for _, p := range promises {
		u := units[p.file]
		if u == nil {
			u = readUnit(t, p.file)
			units[p.file] = u
		}
		if diff := cmp.Diff(p.want, u[p.key]); diff != "" {
			t.Errorf("%s, %s: (-want +got), for: %s\n%s", p.file, p.key, p.why, diff)
		}
	}
	// No file of this directory is forgotten.
	files, err := filepath.Glob("*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if units[name] == nil && filepath.Ext(name) != ".go" {
			t.Errorf("nothing is promised of %s", name)
		}
	}
	// What is inherited by sessions is in the drop-ins alone.
	for key := range units["guest-agent.service"] {
		if !slices.Contains(plain, strings.TrimPrefix(key, "Service.")) && strings.HasPrefix(key, "Service.") {
			t.Errorf("guest-agent.service: %s: does it take something from sessions?", key)
		}
	}
}

// plain are the keys of the service that take nothing from sessions.
var plain = []string{"Type", "NotifyAccess", "ExecStart", "Restart", "RestartSec", "RestartPreventExitStatus", "TimeoutStartSec", "TimeoutStopSec", "WatchdogSec",
	"KillMode", "OOMScoreAdjust", "OOMPolicy", "Delegate", "DelegateSubgroup", "TasksMax", "NoNewPrivileges", "IgnoreSIGPIPE", "UMask",
	"StandardInput", "StandardOutput", "StandardError", "KeyringMode"}

// newer are settings that older versions of systemd say they ignore.
var newer = regexp.MustCompile(`Unknown key.* '(DelegateSubgroup)'`)

// TestSystemdReadsThem has systemd itself look at the units, alone and with each
// drop-in, and measure how exposed they are.
func TestSystemdReadsThem(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze here")
	}
	for dropIn, worst := range map[string]float64{"": 10, "hardened.conf": 4.5, "look-only.conf": 1.5} {
		t.Run(dropIn, func(t *testing.T) {
			dir := t.TempDir()
			service := filepath.Join(dir, "guest-agent.service")
			copyUnit(t, service, "guest-agent.service")
			copyUnit(t, filepath.Join(dir, "guest-agent.socket"), "guest-agent.socket")
			if dropIn != "" {
				copyUnit(t, filepath.Join(dir, "guest-agent.service.d", dropIn), dropIn)
			}
			out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", service).CombinedOutput()
			if err != nil {
				t.Fatalf("verify: %v\n%s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if strings.Contains(line, dir) && !newer.MatchString(line) {
					t.Errorf("verify: %s", line)
				}
			}
			out, err = exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--no-pager", service).Output()
			if err != nil {
				t.Skipf("systemd-analyze security --offline: %v", err)
			}
			m := exposure.FindSubmatch(out)
			if m == nil {
				t.Fatalf("security: no exposure in\n%s", out)
			}
			if got, err := strconv.ParseFloat(string(m[1]), 64); err != nil || got > worst {
				t.Errorf("security: exposure %s, %v; want at most %v", m[1], err, worst)
			}
		})
	}
}

// TestSystemdReadsTheDevice does the same with the template of vsock-device.
func TestSystemdReadsTheDevice(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze here")
	}
	dir := t.TempDir()
	copyUnit(t, filepath.Join(dir, "vsock-device@.service"), "vsock-device@.service")
	service := filepath.Join(dir, "vsock-device@vm1.service")
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", service).CombinedOutput()
	if err != nil {
		t.Fatalf("verify: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) {
			t.Errorf("verify: %s", line)
		}
	}
	out, err = exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--no-pager", service).Output()
	if err != nil {
		t.Skipf("systemd-analyze security --offline: %v", err)
	}
	m := exposure.FindSubmatch(out)
	if m == nil {
		t.Fatalf("security: no exposure in\n%s", out)
	}
	if got, err := strconv.ParseFloat(string(m[1]), 64); err != nil || got > 1.5 {
		t.Errorf("security: exposure %s, %v; want at most 1.5", m[1], err)
	}
}

var exposure = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)

// copyUnit copies a unit, with a program that is there.
func copyUnit(t *testing.T, to, name string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("ExecStart=/usr/bin/guest-agent", "ExecStart=/bin/true", "ExecStart=/usr/bin/host-ctl", "ExecStart=/bin/true").Replace(string(data))
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
