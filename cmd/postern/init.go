package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"postern"
	"postern/shared/settings"
)

func initCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Write agents.yaml and .env.example where there are none",
		Args:  noArguments,
		RunE: func(*cobra.Command, []string) error {
			for _, f := range []struct {
				name    string
				content []byte
			}{
				{"agents.yaml", postern.SampleAgents},
				{"agents.schema.json", postern.AgentsSchema},
				{".env.example", envExample()},
			} {
				if err := writeNew(f.name, f.content); err != nil {
					return err
				}
			}
			fmt.Fprintln(os.Stderr, "Next: postern run")
			return nil
		},
	}
}

// writeNew writes a file that doesn't exist yet, and leaves alone one that does.
func writeNew(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		fmt.Fprintf(os.Stderr, "%s is there already: left as it is\n", name)
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	fmt.Fprintf(os.Stderr, "wrote %s\n", name)
	return nil
}

// envExample is every setting that means something on one machine, commented
// out, with what it takes.
func envExample() []byte {
	var b bytes.Buffer
	b.WriteString("# Settings of Postern on one machine. Copy this file to .env and remove the # of\n" +
		"# what you set; an empty value is as good as none. The environment beats .env.local,\n" +
		"# and that beats .env. Keep .env out of version control: it holds secrets.\n")
	for _, s := range settings.All() {
		if s.Local() {
			fmt.Fprintf(&b, "\n# %s\n# Without it: %s.\n#%s=%s\n", sentence(s.Takes), s.Otherwise(), s.Name, s.Default)
		}
	}
	return b.Bytes()
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }
