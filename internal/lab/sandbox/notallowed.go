package sandbox

import (
	"fmt"
	"os"
	"strings"
)

// NotAllowedError says that a user can't have private namespaces here.
type NotAllowedError struct {
	UID   int   // of the user who asked, as seen outside of the sandbox
	Cause error // what the kernel said
}

// Unwrap returns the kernel's error.
func (e *NotAllowedError) Unwrap() error { return e.Cause }

func (e *NotAllowedError) Error() string {
	return fmt.Sprintf("make private namespaces: %v: %s", e.Cause, advice(e.UID, readSysctl))
}

// obstacles are the settings by which machines keep user namespaces from
// users, with the value that does.
var obstacles = []struct{ sysctl, value, meaning string }{
	{"kernel.unprivileged_userns_clone", "0", "only root may make user namespaces"},
	{"user.max_user_namespaces", "0", "nobody may make user namespaces"},
	{"kernel.apparmor_restrict_unprivileged_userns", "1", "only programs that AppArmor knows may use user namespaces"},
}

// advice names the likely reason and what helps.
func advice(uid int, sysctl func(name string) string) string {
	if uid == 0 {
		return "root lacks CAP_SYS_ADMIN here, as in most containers: run this in a privileged container or on the machine itself"
	}
	for _, o := range obstacles {
		if sysctl(o.sysctl) == o.value {
			return fmt.Sprintf("sysctl %s is %s (%s): run this with sudo", o.sysctl, o.value, o.meaning)
		}
	}
	return "the kernel, or a container's seccomp profile, forbids user namespaces: run this with sudo"
}

// readSysctl returns "" for a setting that this kernel does not have.
func readSysctl(name string) string {
	value, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(value))
}
