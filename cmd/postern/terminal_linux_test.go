package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"postern/shared/keys"
)

// What is typed at the prompt for a token is not shown, and afterwards the
// terminal shows again what is typed, even if Ctrl-C ended it.
func TestHiddenPrompt(t *testing.T) {
	t.Parallel()
	id, token := keys.New()
	for _, row := range []struct {
		name, typed string
		args        []string
		prompt      string
		want        string // of stdout and stderr
		success     bool
	}{
		{"a token to check", token.Reveal() + "\n", []string{"token", "check"}, "Token: ", "its id is " + id, true},
		{"a token to send", token.Reveal() + "\n", []string{"keys", "list", "--url", "http://127.0.0.1:1"}, "Token for http://127.0.0.1:1: ", "doesn't answer", false},
		{"an empty one", "\n", []string{"keys", "list", "--url", "http://127.0.0.1:1"}, "Token for http://127.0.0.1:1: ", "postern: the token: it is empty", false},
		{"none", "half" + "\x03", []string{"token", "check"}, "Token: ", "interrupted", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			keyboard, tty := openTerminal(t)
			var told output
			cmd := exec.Command("postern", row.args...)
			cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=" + os.Getenv("PATH")}
			cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, &told, &told
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // so that Ctrl-C is for it
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			s := &server{cmd: cmd, exited: make(chan struct{})}
			go func() {
				cmd.Wait()
				close(s.exited)
			}()
			defer s.kill()
			for late := time.After(patience); ; {
				changed := told.changed()
				if strings.Contains(told.String(), row.prompt) {
					break
				}
				select {
				case <-changed:
				case <-late:
					t.Fatalf("no prompt: %q", told.String())
				}
			}
			if echoes(t, tty) {
				t.Error("the terminal shows what is typed")
			}
			fmt.Fprint(keyboard, row.typed)
			state, err := s.end()
			if err != nil {
				t.Fatal(err)
			}
			if got := told.String(); state.Success() != row.success || !strings.Contains(got, row.want) || strings.Contains(got, token.Reveal()) {
				t.Errorf("%v, %q", state, got)
			}
			if !echoes(t, tty) {
				t.Error("the terminal is left without echo")
			}
		})
	}
}

// openTerminal makes a terminal: what is written to keyboard is typed.
func openTerminal(t *testing.T) (keyboard, tty *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { keyboard.Close() })
	var locked, number int32
	ioctl(t, keyboard, syscall.TIOCSPTLCK, unsafe.Pointer(&locked))
	ioctl(t, keyboard, syscall.TIOCGPTN, unsafe.Pointer(&number))
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return keyboard, tty
}

func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	var settings syscall.Termios
	ioctl(t, tty, syscall.TCGETS, unsafe.Pointer(&settings))
	return settings.Lflag&syscall.ECHO != 0
}

func ioctl(t *testing.T, f *os.File, request uintptr, value unsafe.Pointer) {
	t.Helper()
	if _, _, err := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), request, uintptr(value)); err != 0 {
		t.Fatal(err)
	}
}
