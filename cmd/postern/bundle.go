package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"postern/shared/agents"
)

// bundleCommand is for the Makefile: it copies an agents file into a Lambda's
// package, if it may go there. `sam build` would put its secrets into every
// package, and there into S3.
func bundleCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "bundle <agents.yaml> <destination>",
		Short:  "Check an agents file for AWS and copy it",
		Args:   cobra.ExactArgs(2),
		Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			file, err := agents.Load(args[0], "offline/eliza")
			if err != nil {
				return err
			}
			if token := file.Deploy.AuthToken; token.IsSet() {
				return fmt.Errorf("%s: a secret must not be deployed with the file: delete the line; on AWS the token is in Secrets Manager", token.Where)
			}
			for _, text := range file.Warnings {
				warn(os.Stderr, text)
			}
			if where := file.Deploy.Where(); where != "" {
				warn(os.Stderr, where+": ignored on AWS, where template.yaml says how to serve")
			}
			content, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			return os.WriteFile(args[1], content, 0o644)
		},
	}
}
