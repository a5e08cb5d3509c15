package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"postern/shared/audit"
)

func auditCommand() *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Read and verify the record of what administrators did",
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	p.flags(cmd)
	cmd.AddCommand(p.auditListCommand(), p.verifyCommand())
	return cmd
}

func (p *place) auditListCommand() *cobra.Command {
	var asJSON bool
	var after int64
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the events, the oldest first",
		Long: `List the events. Each act has two: its intent, and how it ended. --json
writes an event in a line; that is an export, which ` + "`postern audit verify`" + ` reads.`,
		Example: `  postern audit list --json > audit.jsonl`,
		Args:    noArguments,
		RunE: p.with(func(c *client, _ []string) error {
			if asJSON {
				return c.export(os.Stdout, after)
			}
			return c.auditTable(os.Stdout, after)
		}),
	}
	cmd.Flags().Func("after", "begin behind the event of this `number`", func(text string) (err error) {
		if after, err = strconv.ParseInt(text, 10, 64); err != nil {
			return errors.New("it takes the number of an event")
		}
		return nil
	})
	jsonFlag(cmd, &asJSON)
	return cmd
}

// entries yields the events behind a number, as the API has them.
func (c *client) entries(after int64) iter.Seq2[json.RawMessage, error] {
	return c.list("/audit?limit=1000", "events", strconv.FormatInt(after, 10))
}

// events yields the events behind a number.
func (c *client) events(after int64) iter.Seq2[audit.Event, error] {
	return func(yield func(audit.Event, error) bool) {
		for entry, err := range c.entries(after) {
			if err != nil {
				yield(audit.Event{}, err)
				return
			}
			for e, err := range audit.Read(bytes.NewReader(entry)) {
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}

func (c *client) export(w io.Writer, after int64) error {
	for entry, err := range c.entries(after) {
		if err == nil {
			err = jsonLine(w, entry)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inTable is how many rows are aligned with each other: a long log is shown while
// it comes.
const inTable = 1000

func (c *client) auditTable(w io.Writer, after int64) error {
	rows := [][]string{{"SEQ", "TIME", "ACTOR", "ACTION", "TARGET", "IP", "REQUEST_ID"}}
	for e, err := range c.events(after) {
		if err == nil && len(rows) == inTable {
			err = columns(w, rows...)
			rows = nil
		}
		if err != nil {
			return err
		}
		rows = append(rows, []string{strconv.FormatInt(e.Seq, 10), e.Time, e.Actor, e.Action, e.Target, e.IP, e.RequestID})
	}
	return columns(w, rows...)
}

func (p *place) verifyCommand() *cobra.Command {
	var asJSON bool
	var after audit.Head
	var logged []audit.Head
	cmd := &cobra.Command{
		Use:   "verify [FILE]",
		Short: "Tell whether the log, or an export of it, is as it was written",
		Long: `Verify the log itself, or an export in a file (- is standard input), for which
nobody is asked. What was altered, removed, inserted or reordered is told, with
its place, and the exit status is 1.

Only against a head that was noted elsewhere can it be told whether the end was
cut off, or all was written anew: each act's log line has one (audit_seq and
audit_hash), each act from this command line on this machine's data folder tells
one ("audit SEQ:HASH"; with --url the server's log has it), and so does this
command in its last line.

An act without an outcome is a warning, and the exit status is 0: a process may
have ended in the middle of it.

--json writes {"valid","events","head","faults","warnings"}; the exit status is the
same.`,
		Example: `  postern audit list --json | postern audit verify - --head 12:9f86d081…`,
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return p.with(func(c *client, _ []string) error {
				return verify(c.events(after.Seq), after, logged, asJSON)
			})(cmd, nil)
		}
		if p.url != "" || p.data != "" {
			return fmt.Errorf("an export is verified without asking anybody: leave --url and --data out, or %.64q", args[0])
		}
		file := os.Stdin
		if args[0] != "-" {
			var err error
			if file, err = os.Open(args[0]); err != nil {
				return err
			}
			defer file.Close()
		}
		return verify(audit.Read(file), after, logged, asJSON)
	}
	cmd.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveDefault) // of FILE
	cmd.Flags().Func("head", "an event that must be in it, as `SEQ:HASH`; may be given several times", func(text string) error {
		head, err := parseHead(text)
		logged = append(logged, head)
		return err
	})
	cmd.Flags().Func("after", "the event behind which it begins, as `SEQ:HASH`", func(text string) (err error) {
		after, err = parseHead(text)
		return err
	})
	jsonFlag(cmd, &asJSON)
	return cmd
}

// parseHead reads what an audited command and `audit verify` tell.
func parseHead(text string) (audit.Head, error) {
	number, hash, _ := strings.Cut(text, ":")
	seq, err := strconv.ParseInt(number, 10, 64)
	if err != nil || seq < 1 || len(hash) != 64 || strings.Trim(hash, "0123456789abcdef") != "" {
		return audit.Head{}, errors.New("it takes an event's number, a colon, and the 64 digits of its hash")
	}
	return audit.Head{Seq: seq, Hash: hash}, nil
}

// verdict is what there is to tell about a chain.
type verdict struct {
	Valid    bool     `json:"valid"`
	Events   int64    `json:"events"`
	Head     string   `json:"head"` // SEQ:HASH of the last event; "": there is none
	Faults   []string `json:"faults"`
	Warnings []string `json:"warnings"`
}

// judge verifies a chain; its error is that it couldn't. An outcome that nobody
// intended is a fault, unless its intent can be in the part before.
func judge(events iter.Seq2[audit.Event, error], after audit.Head, logged []audit.Head) (verdict, error) {
	found, err := audit.Verify(events, after, logged...)
	broken, is := errors.AsType[*audit.Broken](err)
	if err != nil && !is {
		return verdict{}, err
	}
	v := verdict{Events: found.Events, Faults: []string{}, Warnings: []string{}}
	if found.Events > 0 {
		v.Head = fmt.Sprintf("%d:%s", found.Head.Seq, found.Head.Hash)
	}
	if broken != nil {
		v.Faults = append(v.Faults, broken.Error())
	}
	for _, e := range found.Unmatched {
		text := clean(fmt.Sprintf("event %d, %s of %s by %s at %s,", e.Seq, e.Action, e.Target, e.Actor, e.Time))
		switch _, outcome := e.Act(); {
		case broken != nil: // what would match it may stand behind the break
		case outcome == "":
			v.Warnings = append(v.Warnings, text+" has no outcome: look whether it happened")
		case after.Seq == 0:
			v.Faults = append(v.Faults, text+" is the outcome of nothing: Postern didn't write it")
		}
	}
	if found.Events == 0 && len(v.Faults) == 0 {
		v.Faults = append(v.Faults, "there are no events in it: nothing was verified")
	}
	v.Valid = len(v.Faults) == 0
	return v, nil
}

// verify tells people, or programs, of a chain; of one that isn't valid by its
// error too.
func verify(events iter.Seq2[audit.Event, error], after audit.Head, logged []audit.Head, asJSON bool) error {
	v, err := judge(events, after, logged)
	if err != nil {
		return err
	}
	if asJSON {
		if err := printJSON(v); err != nil {
			return err
		}
	} else {
		for _, text := range v.Warnings {
			fmt.Fprintln(os.Stderr, "warning:", text)
		}
	}
	if !v.Valid {
		return errors.New(strings.Join(v.Faults, "\n"))
	}
	if !asJSON {
		fmt.Printf("%d events, as they were written, up to\n%s\n", v.Events, v.Head)
	}
	return nil
}
