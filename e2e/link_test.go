package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// roles are what this program does when it is started for it, with a role and
// an argument in the environment.
var roles = map[string]func(arg []byte) (any, error){
	"slow":  role(serveAll),
	"age":   role(serveAges),
	"ages":  role(readAges),
	"start": role(startOne),
}

const (
	roleIs   = "E2E_ROLE"
	roleArg  = "E2E_ROLE_ARG"
	roleLink = "E2E_ROLE_LINK" // the role has a link to itself, which is down
)

func role[A, R any](f func(A) (R, error)) func([]byte) (any, error) {
	return func(arg []byte) (any, error) {
		var a A
		if err := json.Unmarshal(arg, &a); err != nil {
			return nil, err
		}
		return f(a)
	}
}

// play plays the role that the environment names.
func play(name string) error {
	if os.Getenv(roleLink) != "" {
		// Packets as they go over a network. Loopback's own have 64 KiB each, and
		// the kernel frees the memory of each as a whole.
		out, err := exec.Command("ip", "link", "set", "lo", "mtu", "1500", "gso_max_segs", "1", "up").CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip: %w: %s", err, out)
		}
		os.Unsetenv(roleLink)
	}
	result, err := roles[name]([]byte(os.Getenv(roleArg)))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// another starts this program again in a role. Its result is on standard
// output.
func another(name string, arg any) (*exec.Cmd, error) {
	a, err := json.Marshal(arg)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleIs+"="+name, roleArg+"="+string(a))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// inLink plays a role in a network namespace, whose loopback has packets of
// 1500 bytes.
func inLink(t *testing.T, name string, arg, result any) {
	t.Helper()
	need(t, "ip")
	cmd, err := another(name, arg)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(cmd.Env, roleLink+"=1")
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	}
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, result)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
