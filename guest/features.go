package guest

import guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"

// features says what each method of the agent is for, and the version of the
// protocol that has it, for agents that lack it.
var features = map[string]struct {
	name  string
	since uint32
}{
	guestv1.AgentService_Info_FullMethodName: {"info", 1},

	guestv1.ProcessService_Exec_FullMethodName:          {"exec", 1},
	guestv1.ProcessService_Attach_FullMethodName:        {"attach", 1},
	guestv1.ProcessService_Start_FullMethodName:         {"detached sessions", 1},
	guestv1.ProcessService_Signal_FullMethodName:        {"signals", 1},
	guestv1.ProcessService_Wait_FullMethodName:          {"waiting for a session", 1},
	guestv1.ProcessService_Remove_FullMethodName:        {"removing sessions", 1},
	guestv1.ProcessService_ListSessions_FullMethodName:  {"listing sessions", 1},
	guestv1.ProcessService_ListProcesses_FullMethodName: {"listing processes", 1},
	guestv1.ProcessService_WatchSessions_FullMethodName: {"watching sessions", 1},

	guestv1.ForwardService_Dial_FullMethodName:   {"connections made in the guest", 1},
	guestv1.ForwardService_Listen_FullMethodName: {"listening in the guest", 1},
	guestv1.ForwardService_Accept_FullMethodName: {"listening in the guest", 1},

	guestv1.FileService_Stat_FullMethodName:          {"facts of files", 1},
	guestv1.FileService_ReadLink_FullMethodName:      {"reading links", 1},
	guestv1.FileService_List_FullMethodName:          {"listing directories", 1},
	guestv1.FileService_MakeDirectory_FullMethodName: {"making directories", 1},
	guestv1.FileService_RemoveFile_FullMethodName:    {"removing files", 1},
	guestv1.FileService_Rename_FullMethodName:        {"renaming files", 1},
	guestv1.FileService_SetAttributes_FullMethodName: {"changing the attributes of files", 1},
	guestv1.FileService_MakeLink_FullMethodName:      {"making links", 1},
	guestv1.FileService_MakeTemporary_FullMethodName: {"making temporary files", 1},
	guestv1.FileService_DiskFree_FullMethodName:      {"free space", 1},
	guestv1.FileService_DiskUsage_FullMethodName:     {"sizes of trees", 1},
	guestv1.FileService_ListXattrs_FullMethodName:    {"extended attributes", 1},
	guestv1.FileService_SetXattr_FullMethodName:      {"extended attributes", 1},
	guestv1.FileService_Hash_FullMethodName:          {"hashes of files", 1},
	guestv1.FileService_Read_FullMethodName:          {"reading files", 1},
	guestv1.FileService_Watch_FullMethodName:         {"watching files", 1},
	guestv1.FileService_Open_FullMethodName:          {"open files", 1},
	guestv1.FileService_Upload_FullMethodName:        {"copying to the guest", 1},
	guestv1.FileService_Download_FullMethodName:      {"copying from the guest", 1},

	guestv1.AccessService_Explain_FullMethodName: {"asking what is allowed", 1},

	guestv1.ControlService_AddHostKey_FullMethodName:    {"enrolling", 1},
	guestv1.ControlService_RemoveHostKey_FullMethodName: {"revoking keys", 1},
	guestv1.ControlService_ListHostKeys_FullMethodName:  {"listing keys", 1},
	guestv1.ControlService_GetPolicy_FullMethodName:     {"showing the policy", 1},
}
