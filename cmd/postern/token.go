package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"postern/shared/keys"
	"postern/shared/secret"
)

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a root token, or check how a token is written",
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(tokenNewCommand(), tokenCheckCommand())
	return cmd
}

func tokenNewCommand() *cobra.Command {
	var digest, asJSON bool
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Print a new root token, for API_TOKEN or Secrets Manager",
		Long: `Print a token of 32 random bytes. Nobody knows it yet: it is a root token once
it is configured, as API_TOKEN or in the deployment's secret. Keys for clients
come from ` + "`postern keys create`" + `.`,
		Example: `  postern token new | aws secretsmanager put-secret-value --secret-id ID --secret-string file:///dev/stdin`,
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			token := secret.Generate()
			if asJSON {
				return printJSON(map[string]string{"token": token.Reveal(), "digest": "sha256:" + secret.DigestOf(token.Reveal()).Reveal()})
			}
			text := token.Reveal() + "\n"
			if digest {
				text += "sha256:" + secret.DigestOf(token.Reveal()).Reveal() + "\n"
			}
			_, err := io.WriteString(os.Stdout, text)
			return err
		},
	}
	cmd.Flags().BoolVar(&digest, "digest", false, "print what may stand in API_TOKEN in its place too, in a second line")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func tokenCheckCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Tell whether a token was copied whole, without asking a server",
		Long: `Check the form of a token, and the checksum of an issued key. Whether it is
valid, its server knows. The token is read from standard input, or typed in; as
an argument it would stand in the list of processes.`,
		Example: `  postern token check < token.txt`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return errors.New("a token as an argument can be read by others, and is in the shell's history now: `postern token check` reads it from standard input")
		},
		RunE: func(*cobra.Command, []string) error {
			token, err := readToken()
			if err != nil {
				return err
			}
			f, err := formOf(token.Reveal())
			switch {
			case err != nil:
				return fmt.Errorf("the token is malformed: %w", err)
			case asJSON:
				return printJSON(f)
			case f.ID != "":
				fmt.Println("an issued key, whole; its id is " + f.ID)
			default:
				fmt.Printf("a token of %d characters, which can be a configured one; it is no issued key\n", f.Length)
			}
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// readToken reads a token that is typed in, or all of standard input. White space
// around it is an editor's.
func readToken() (secret.String, error) {
	token, err := askHidden("Token: ")
	if !errors.Is(err, errNobody) {
		return token, err
	}
	text, err := io.ReadAll(io.LimitReader(os.Stdin, maxLine))
	return secret.New(strings.TrimSpace(string(text))), err
}

// form is what a token is by its form, with nothing of what is secret in it.
type form struct {
	ID     string `json:"id,omitempty"` // of an issued key; "": it is none
	Length int    `json:"length"`       // in characters
}

func formOf(token string) (form, error) {
	f := form{Length: len(token)}
	if strings.HasPrefix(token, "postern_") {
		var err error
		f.ID, err = keys.Parse(token)
		return f, err
	}
	if !secret.WellFormed(token) {
		return f, errors.New(malformed(token))
	}
	return f, nil
}
