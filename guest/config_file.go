package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/vsockrpc/vsockrpc/transport"
)

// ConfigFile is a configuration file: names for guests. It is TOML:
//
//	user = "deploy"              # run commands as; default: the agent's user
//	port = 1000                  # of vsock targets that name no port
//
//	[guests.web]
//	target = "vsock:5"
//
//	[guests.fc]
//	target = "vsock-mux:/run/fc.sock:1000"
//	user = "root"
//
// It is not changed after it was read, and may be used concurrently.
type ConfigFile struct {
	// User is the user to run commands as, for guests that have none.
	User string
	// Port is the port of vsock targets without one, for guests that have
	// none; 0 means the agent's port.
	Port uint32
	// Guests are the guests by name.
	Guests map[string]GuestEntry
}

// GuestEntry is a guest of a ConfigFile.
type GuestEntry struct {
	// Target is a target for Dial; not a name. The file may have a CID as a number.
	Target string
	// User is the user to run commands as; empty means the agent's own.
	User string
	// Port is the port of a vsock target without one.
	Port uint32
}

// fileText is a ConfigFile as it is written.
type fileText struct {
	User   string `toml:"user"`
	Port   uint32 `toml:"port"`
	Guests map[string]struct {
		Target targetText `toml:"target"`
		User   string     `toml:"user"`
		Port   uint32     `toml:"port"`
	} `toml:"guests"`
}

// targetText is a target, or a CID as a number.
type targetText string

// UnmarshalTOML implements toml.Unmarshaler.
func (t *targetText) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case string:
		*t = targetText(v)
	case int64:
		*t = targetText(strconv.FormatInt(v, 10))
	default:
		return errors.New("a target is a text, or a CID")
	}
	return nil
}

// DefaultConfigFile returns the path of the user's configuration file:
// host-ctl/config.toml below $XDG_CONFIG_HOME or what stands for it on this
// system.
func DefaultConfigFile() (string, error) {
	// os.UserConfigDir looks at XDG_CONFIG_HOME on Unix only.
	if dir := os.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "host-ctl", "config.toml"), nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("configuration file: %w", err)
	}
	return filepath.Join(dir, "host-ctl", "config.toml"), nil
}

// systemFile has guests for all users of this machine.
var systemFile = "/etc/host-ctl/config.toml"

// ReadConfigFile reads a configuration file. An empty path means DefaultConfigFile, and
// then a file that is missing is as good as an empty one, and the guests of
// /etc/host-ctl/config.toml are added whose names it does not have. A key that is not
// known is an error, as is a guest whose name or target is malformed.
func ReadConfigFile(path string) (*ConfigFile, error) {
	if path != "" {
		return readConfigFile(path)
	}
	file := &ConfigFile{}
	path, err := DefaultConfigFile()
	if err == nil { // else there is no home directory, and so no file
		file, err = readConfigFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			file, err = &ConfigFile{}, nil
		}
		if err != nil {
			return nil, err
		}
	}
	system, err := readConfigFile(systemFile)
	if errors.Is(err, fs.ErrNotExist) {
		return file, nil
	}
	if err != nil {
		return nil, err
	}
	file.add(system)
	return file, nil
}

// add adds the guests of another file whose names f does not have, with the defaults of
// that file.
func (f *ConfigFile) add(other *ConfigFile) {
	for _, name := range other.Names() {
		if _, ok := f.Guests[name]; ok {
			continue
		}
		if f.Guests == nil {
			f.Guests = make(map[string]GuestEntry)
		}
		f.Guests[name], _ = other.Lookup(name)
	}
}

func readConfigFile(path string) (*ConfigFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	f, err := ParseConfigFile(string(data))
	if err != nil {
		return nil, fmt.Errorf("configuration file %s: %w", path, err)
	}
	return f, nil
}

// ParseConfigFile parses the text of a configuration file. Errors name the line.
func ParseConfigFile(text string) (*ConfigFile, error) {
	var written fileText
	meta, err := toml.Decode(text, &written)
	if err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return nil, fmt.Errorf("line %d: %s", pe.Position.Line, pe.Message)
		}
		return nil, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("line %d: unknown key %s", lineOf(text, unknown[0]), unknown[0])
	}
	f := &ConfigFile{User: written.User, Port: written.Port, Guests: make(map[string]GuestEntry)}
	for name, e := range written.Guests {
		f.Guests[name] = GuestEntry{string(e.Target), e.User, e.Port}
	}
	for _, name := range f.Names() {
		line := lineOf(text, toml.Key{"guests", name})
		if err := checkName(name); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		e := f.Guests[name]
		if e.Target == "" {
			return nil, fmt.Errorf("line %d: guest %s has no target", line, name)
		}
		if _, err := parseTarget(e.Target, e.Port); err != nil {
			return nil, fmt.Errorf("line %d: guest %s: %w", line, name, err)
		}
	}
	return f, nil
}

// Names returns the names of the guests, sorted.
func (f *ConfigFile) Names() []string { return slices.Sorted(maps.Keys(f.Guests)) }

// Lookup returns the guest with a name, with the file's defaults filled in.
func (f *ConfigFile) Lookup(name string) (GuestEntry, bool) {
	e, ok := f.Guests[name]
	if e.User == "" {
		e.User = f.User
	}
	if e.Port == 0 && hasNoPort(e.Target) {
		e.Port = f.Port
	}
	return e, ok
}

// checkName refuses names that would be taken for something else on a command
// line.
func checkName(name string) error {
	plain := strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
	switch {
	case name == "" || !plain || strings.HasPrefix(name, "-") || strings.HasPrefix(name, "."):
		return fmt.Errorf("guest name %q: use letters, digits, and . _ - but not first", name)
	case isNumber(name):
		return fmt.Errorf("guest name %q: a number is a CID", name)
	case name == "local":
		return fmt.Errorf("guest name %q: that is the embedded guest", name)
	}
	return nil
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// hasNoPort reports whether target is a vsock address without a port.
func hasNoPort(target string) bool {
	rest, ok := strings.CutPrefix(target, "vsock:")
	return isNumber(target) || ok && !strings.Contains(rest, ":")
}

// parseTarget parses a target that is not a name: an address, or a CID. The
// port, if not 0, is for vsock targets that have none.
func parseTarget(target string, port uint32) (transport.Addr, error) {
	if port != 0 && !hasNoPort(target) {
		return transport.Addr{}, fmt.Errorf("target %s: a port does not go with it", target)
	}
	s := target
	if isNumber(s) {
		s = "vsock:" + s
	}
	a, err := transport.ParseAddr(s)
	if err != nil {
		return transport.Addr{}, err
	}
	if port != 0 {
		a.Port = port
	}
	if a.Net == transport.NetworkVsock && (a.CID == transport.CIDAny || a.Port == transport.PortAny) {
		return transport.Addr{}, fmt.Errorf("target %s: \"any\" is for listening", target)
	}
	return a, nil
}

// lineOf returns the line on which key is set, or on which its table begins:
// the parser tells the lines of its own errors only.
func lineOf(text string, key toml.Key) int {
	plain := strings.NewReplacer(`"`, "", "'", "", " ", "", "\t", "", "[", "", "]", "")
	want := strings.Join(key, ".")
	table := ""
	for n, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "[") {
			line, _, _ = strings.Cut(line, "#")
			if table = plain.Replace(strings.TrimSpace(line)); table == want {
				return n + 1
			}
			table += "."
			continue
		}
		if name, _, ok := strings.Cut(line, "="); ok && table+plain.Replace(name) == want {
			return n + 1
		}
	}
	return 1
}
