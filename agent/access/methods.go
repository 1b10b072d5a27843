package access

// Class says what a method asks of its caller.
type Class int

const (
	// Trusted methods answer trusted callers only. Every method that nobody
	// has decided on is Trusted.
	Trusted Class = iota
	// Reduced methods answer everybody, and leave out what concerns the guest
	// if the caller is not trusted. They look at the Decision themselves.
	Reduced
	// Open methods answer everybody.
	Open
)

// String returns "trusted", "reduced" or "open".
func (c Class) String() string {
	switch c {
	case Reduced:
		return "reduced"
	case Open:
		return "open"
	}
	return "trusted"
}

// ClassOf returns the class of a method, named as gRPC does:
// "/package.Service/Method".
func ClassOf(fullMethod string) Class { return methods[fullMethod] }

// methods holds the decision on each method of the services that the agent
// has. A test over the descriptors fails for a method that is missing here.
var methods = map[string]Class{
	// Whether the agent is there and well is no secret from those who can
	// connect: doctor and wait need it.
	"/grpc.health.v1.Health/Check": Open,
	"/grpc.health.v1.Health/List":  Open,
	"/grpc.health.v1.Health/Watch": Open,

	// Versions, and why the caller is refused.
	"/guest.v1.AgentService/Info": Reduced,

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      Trusted,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Trusted,

	"/guest.v1.ProcessService/Exec":          Trusted,
	"/guest.v1.ProcessService/Attach":        Trusted,
	"/guest.v1.ProcessService/Start":         Trusted,
	"/guest.v1.ProcessService/Signal":        Trusted,
	"/guest.v1.ProcessService/Wait":          Trusted,
	"/guest.v1.ProcessService/Remove":        Trusted,
	"/guest.v1.ProcessService/ListSessions":  Trusted,
	"/guest.v1.ProcessService/ListProcesses": Trusted,
	"/guest.v1.ProcessService/WatchSessions": Trusted,

	"/guest.v1.ForwardService/Dial":   Trusted,
	"/guest.v1.ForwardService/Listen": Trusted,
	"/guest.v1.ForwardService/Accept": Trusted,

	"/guest.v1.FileService/Stat":          Trusted,
	"/guest.v1.FileService/ReadLink":      Trusted,
	"/guest.v1.FileService/List":          Trusted,
	"/guest.v1.FileService/MakeDirectory": Trusted,
	"/guest.v1.FileService/RemoveFile":    Trusted,
	"/guest.v1.FileService/Rename":        Trusted,
	"/guest.v1.FileService/SetAttributes": Trusted,
	"/guest.v1.FileService/MakeLink":      Trusted,
	"/guest.v1.FileService/MakeTemporary": Trusted,
	"/guest.v1.FileService/DiskFree":      Trusted,
	"/guest.v1.FileService/DiskUsage":     Trusted,
	"/guest.v1.FileService/ListXattrs":    Trusted,
	"/guest.v1.FileService/SetXattr":      Trusted,
	"/guest.v1.FileService/Hash":          Trusted,
	"/guest.v1.FileService/Read":          Trusted,
	"/guest.v1.FileService/Watch":         Trusted,
	"/guest.v1.FileService/Open":          Trusted,
	"/guest.v1.FileService/Upload":        Trusted,
	"/guest.v1.FileService/Download":      Trusted,
}

// Decided reports whether the class of a method is a decision, not the default.
func Decided(fullMethod string) bool {
	_, ok := methods[fullMethod]
	return ok
}
