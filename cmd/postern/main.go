// Postern is the guarded door for agents, as one program for people:
//
//	postern run    serve the agents of agents.yaml on this machine
//	postern init   write a sample agents.yaml to begin with
//	postern keys   create, list, change and take back issued keys
//	postern audit  read and verify the record of what administrators did
//	postern token  make a root token, or check how a token is written
//	postern backup, postern restore  copy the data folder's database, put a copy back
//
// keys and audit are clients of the HTTP API: a deployment's (--url), or that of
// the data folder of this machine, which they serve themselves for one command,
// beside the server that may be running (client.go).
//
// Standard output has what was asked for, and nothing else; what else a person is
// to read goes to standard error. An error is one line that says what is wrong
// and how to mend it, and the exit status is 1. No secret is taken from a flag or
// an argument, where others could read it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"postern/shared/api"
)

func main() { os.Exit(run()) }

// run is main with an exit status, for the transcripts in testdata.
func run() int {
	root := &cobra.Command{
		Use:           "postern",
		Short:         "The guarded door for AI agents",
		Version:       api.Version,
		Args:          noArguments,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; `%s --help` lists the flags", err, cmd.CommandPath())
	})
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.AddCommand(runCommand(), initCommand(), keysCommand(), auditCommand(), tokenCommand(), backupCommand(), restoreCommand(), bundleCommand())
	if err := root.Execute(); err != nil {
		for _, line := range faults(err) {
			fmt.Fprintln(os.Stderr, "postern: "+line)
		}
		return 1
	}
	return 0
}

// untilSignal is a context that ends at the first SIGINT or SIGTERM. When it has
// ended, signals do again what they do by default: a second one ends the process.
func untilSignal() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		signal.Stop(signals)
		cancel()
	}()
	return ctx
}

// noArguments refuses words where only flags or a command can stand.
func noArguments(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case !cmd.HasSubCommands():
		return fmt.Errorf("`%s` takes flags only, not %q; `%[1]s --help` lists them", cmd.CommandPath(), args[0])
	default:
		return fmt.Errorf("there is no command %q; `%s --help` lists those there are", args[0], cmd.CommandPath())
	}
}

// faults is what err has to say, a line each.
func faults(err error) []string {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return []string{strings.ReplaceAll(err.Error(), "\n", " ")}
	}
	var lines []string
	for _, e := range joined.Unwrap() {
		lines = append(lines, faults(e)...)
	}
	return lines
}
