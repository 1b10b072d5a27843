package transport

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Networks, the values of Addr.Network.
const (
	NetworkVsock = "vsock"     // native AF_VSOCK
	NetworkMux   = "vsock-mux" // Unix socket of a VMM, with a CONNECT line
	NetworkUnix  = "unix"      // plain Unix socket
)

// Well-known context IDs, from linux/vm_sockets.h. CID 0 (the hypervisor) is
// reserved and refused everywhere in this package; guests have 3 and above.
const (
	CIDLocal uint32 = 1          // the machine itself: loopback
	CIDHost  uint32 = 2          // the host, as its guests see it
	CIDAny   uint32 = 0xffffffff // for listening: whatever the CID is, now or after a restore
)

const (
	// AgentPort is the vsock port of guest-agent, used when an address names
	// none. It is below 1024, so that in the guest only a privileged process
	// can listen on it.
	AgentPort uint32 = 1000

	// PortAny lets the kernel choose a free port when listening. It is not 0:
	// in vsock, 0 is a port like any other.
	PortAny uint32 = 0xffffffff

	// firstUnprivilegedPort is the lowest port that needs no
	// CAP_NET_BIND_SERVICE to bind (LAST_RESERVED_PORT + 1 in the kernel).
	firstUnprivilegedPort uint32 = 1024
)

// Addr is the address of an endpoint. It is comparable, so that it can be a
// map key. Only the fields of its network are set:
//
//	vsock      CID, Port
//	vsock-mux  Path, Port
//	unix       Path
//
// The zero Addr is no address; it is what a connection reports for an end that
// has no name, such as the client's end of a Unix socket.
type Addr struct {
	Net  string // NetworkVsock, NetworkMux or NetworkUnix
	CID  uint32
	Port uint32
	Path string // of a Unix socket; on Linux a leading '@' means the abstract name space
}

var _ net.Addr = Addr{}

// VsockAddr returns the address of a native vsock port.
func VsockAddr(cid, port uint32) Addr { return Addr{Net: NetworkVsock, CID: cid, Port: port} }

// MuxAddr returns the address of a guest's port behind the Unix socket of its
// VMM. To listen on such an address means to take the connections that the
// guest makes to that port of CID 2: the VMM passes them on to the Unix socket
// "<path>_<port>".
func MuxAddr(path string, port uint32) Addr { return Addr{Net: NetworkMux, Path: path, Port: port} }

// UnixAddr returns the address of a plain Unix socket.
func UnixAddr(path string) Addr { return Addr{Net: NetworkUnix, Path: path} }

// Network returns a.Net.
func (a Addr) Network() string { return a.Net }

// String returns the address in the form that ParseAddr takes, for every
// address that ParseAddr returns.
func (a Addr) String() string {
	switch a.Net {
	case NetworkVsock:
		return "vsock:" + wordOr(a.CID, CIDAny) + ":" + wordOr(a.Port, PortAny)
	case NetworkMux:
		return "vsock-mux:" + a.Path + ":" + strconv.FormatUint(uint64(a.Port), 10)
	case NetworkUnix:
		return "unix:" + a.Path
	}
	return a.Net
}

// wordOr writes n in decimal, or as the word any.
func wordOr(n, anyValue uint32) string {
	if n == anyValue {
		return "any"
	}
	return strconv.FormatUint(uint64(n), 10)
}

// ParseAddr parses an address:
//
//	vsock:CID:PORT        CID 1 and above, or local (1), host (2), any or -1;
//	                      PORT 0 and above, or any or -1
//	vsock:CID             the same with port AgentPort
//	vsock-mux:PATH:PORT   split at the last colon, so that PATH may hold colons;
//	                      the port is required
//	unix:PATH
//
// Numbers are decimal and fit in 32 bits. any (or -1) as CID or port is for
// listening only; Dial refuses it. Paths are taken byte for byte, except that
// "unix:///path" and "vsock-mux:///path:PORT", the URL spelling, mean the same
// as with one slash. The error is an [*Error] of KindBadAddress.
func ParseAddr(s string) (Addr, error) {
	a, err := parseAddr(s)
	if err != nil {
		return Addr{}, &Error{Op: "parse", Kind: KindBadAddress, Err: fmt.Errorf("address %q: %w", s, err)}
	}
	return a, nil
}

func parseAddr(s string) (Addr, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Addr{}, fmt.Errorf("no scheme: want vsock:CID:PORT, vsock-mux:/path:PORT or unix:/path")
	}
	switch scheme {
	case NetworkVsock:
		return parseVsock(rest)
	case NetworkMux:
		i := strings.LastIndexByte(rest, ':')
		if i < 0 || strings.IndexByte(rest[i:], '/') >= 0 {
			return Addr{}, fmt.Errorf("no port: want vsock-mux:/path:PORT")
		}
		path, err := parsePath(rest[:i])
		if err != nil {
			return Addr{}, err
		}
		port, err := parseNumber("port", rest[i+1:])
		if err != nil {
			return Addr{}, err
		}
		if port == PortAny {
			return Addr{}, fmt.Errorf("port %s: a vsock-mux address needs a port of its own", rest[i+1:])
		}
		return MuxAddr(path, port), nil
	case NetworkUnix:
		path, err := parsePath(rest)
		if err != nil {
			return Addr{}, err
		}
		return UnixAddr(path), nil
	}
	return Addr{}, fmt.Errorf("unknown scheme %q: want vsock:CID:PORT, vsock-mux:/path:PORT or unix:/path", scheme)
}

func parseVsock(s string) (Addr, error) {
	if rest, ok := strings.CutPrefix(s, "/"); ok {
		return Addr{}, fmt.Errorf("vsock addresses have no slashes: write vsock:%s", strings.TrimLeft(rest, "/"))
	}
	cidText, portText, hasPort := strings.Cut(s, ":")
	cid, err := parseNumber("CID", cidText)
	if err != nil {
		return Addr{}, err
	}
	if cid == 0 {
		return Addr{}, fmt.Errorf("CID 0 is reserved for the hypervisor: the host is 2, guests are 3 and above")
	}
	port := AgentPort
	if hasPort {
		if port, err = parseNumber("port", portText); err != nil {
			return Addr{}, err
		}
	}
	return VsockAddr(cid, port), nil
}

// parseNumber parses a CID or a port. Both have the same value for any; the
// words local and host are for CIDs.
func parseNumber(what, s string) (uint32, error) {
	switch {
	case s == "any" || s == "-1":
		return CIDAny, nil
	case what == "CID" && s == "local":
		return CIDLocal, nil
	case what == "CID" && s == "host":
		return CIDHost, nil
	case s == "":
		return 0, fmt.Errorf("empty %s", what)
	}
	n, err := strconv.ParseUint(s, 10, 32)
	switch {
	case err == nil:
		return uint32(n), nil
	case isDigits(s):
		return 0, fmt.Errorf("%s %s is out of range: the largest is 4294967295", what, s)
	}
	return 0, fmt.Errorf("%s %q is not a decimal number", what, s)
}

func isDigits(s string) bool {
	return strings.Trim(s, "0123456789") == ""
}

func parsePath(s string) (string, error) {
	if rest, ok := strings.CutPrefix(s, "//"); ok {
		if !strings.HasPrefix(rest, "/") {
			return "", fmt.Errorf("a socket has no host part: write one slash or three before the path")
		}
		s = "/" + strings.TrimLeft(rest, "/")
	}
	switch {
	case s == "":
		return "", fmt.Errorf("empty path")
	case strings.IndexByte(s, 0) >= 0:
		return "", fmt.Errorf("the path holds a zero byte")
	}
	return s, nil
}
