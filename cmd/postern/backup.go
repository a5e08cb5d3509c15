package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"postern/shared/table/sqlite"
)

func backupCommand() *cobra.Command {
	var data string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy this machine's keys, audit log, conversations and jobs into a file",
		Long: `Copy the database of the data folder into a new file, as it is at one moment,
beside the server that may be running or without one. The file appears when it is
whole, and one that exists is left alone.

Keep it like a secret: conversations and jobs stand in it in clear. Of keys it has
the digests, with which nobody can call; put back, they are valid again, those
that were revoked meanwhile too (` + "`postern restore --help`" + `).`,
		Example: `  postern backup /mnt/backup/postern-$(date +%F).db`,
		Args:    oneFile,
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := dataFolder(data)
			if err != nil {
				return err
			}
			err = sqlite.Backup(untilSignal(), sqlite.Config{Dir: dir}, args[0])
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return fmt.Errorf("there is no data folder %s, or no database in it: name it with --data or DATA_DIR", dir)
			case errors.Is(err, context.Canceled):
				return errAbort
			case err != nil:
				return err
			}
			return tellBackup(args[0], asJSON)
		},
	}
	dataFlag(cmd, &data)
	jsonFlag(cmd, &asJSON)
	cmd.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveDefault) // of FILE
	return cmd
}

func tellBackup(file string, asJSON bool) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "wrote %s, %d bytes: keep it like a secret\n", path, info.Size())
	if !asJSON {
		return nil
	}
	return printJSON(map[string]any{"file": path, "bytes": info.Size()})
}

func restoreCommand() *cobra.Command {
	var data string
	var yes, asJSON bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a backup in the place of this machine's keys, audit log, conversations and jobs",
		Long: `Put a backup in the place of the database of the data folder, while no server
runs on it. What was there is kept beside it under another name, and can itself
be restored.

All is then as it was when the backup was made. Keys that were revoked, disabled,
rotated or changed since are valid as they were then, and those created since are
gone. Limits and budgets count from what they had counted. Jobs that had not ended
then run again. The audit log ends there too: ` + "`postern audit verify`" + ` tells that
heads which were noted since are missing from it.

A copy that isn't ours, or isn't whole, is refused, and nothing is changed.`,
		Example: `  postern restore /mnt/backup/postern-2026-11-21.db`,
		Args:    oneFile,
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := dataFolder(data)
			if err != nil {
				return err
			}
			info, err := os.Stat(args[0])
			if err != nil {
				return fmt.Errorf("reading the backup: %w", err)
			}
			written := info.ModTime().UTC().Format(time.DateTime) + " UTC"
			if err := confirm(fmt.Sprintf("Put %.200q, written %s, in the place of what is in %s? Keys revoked since then are valid again.", args[0], written, dir), yes); err != nil {
				return err
			}
			kept, err := sqlite.Restore(untilSignal(), sqlite.Config{Dir: dir}, args[0])
			if errors.Is(err, context.Canceled) {
				return errAbort
			}
			if err != nil {
				return err
			}
			return tellRestored(dir, kept, asJSON)
		},
	}
	dataFlag(cmd, &data)
	yesFlag(cmd, &yes)
	jsonFlag(cmd, &asJSON)
	cmd.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveDefault) // of FILE
	return cmd
}

func tellRestored(dir, kept string, asJSON bool) error {
	fmt.Fprintf(os.Stderr, "restored %s\n", dir)
	fmt.Fprintln(os.Stderr, "warning: keys that were revoked, disabled or rotated since the backup are valid again: `postern keys list` shows all, to revoke them anew")
	if kept != "" {
		fmt.Fprintf(os.Stderr, "What was there is kept as %s\n", kept)
		fmt.Fprintln(os.Stderr, "To see which keys those are, restore that into a folder of its own, with --data, and list them there.")
	}
	if !asJSON {
		return nil
	}
	answer := struct {
		Data string  `json:"data"`
		Kept *string `json:"kept"` // null: nothing was there
	}{Data: dir}
	if kept != "" {
		answer.Kept = &kept
	}
	return printJSON(answer)
}

// oneFile is a file's name as the only argument.
func oneFile(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) != 1:
		return fmt.Errorf("`%s` takes the name of one file", cmd.CommandPath())
	case args[0] == "":
		return errors.New("the file's name is empty")
	}
	return nil
}
