package bedrock_test

import (
	"testing"

	"postern/shared/model/bedrock"
)

// The resources are written as in Amazon Bedrock's user guide ("Prerequisites for
// inference profiles") and IAM's ("IAM JSON policy elements: Resource").
func TestCovered(t *testing.T) {
	t.Parallel()
	const (
		model   = "anthropic.claude-3-5-haiku-20241022-v1:0"
		profile = "eu.amazon.nova-lite-v1:0"
		account = "arn:aws:bedrock:eu-west-1:123456789012:"
		custom  = account + "application-inference-profile/a1b2c3d4e5f6"
	)
	for _, row := range []struct {
		name string
		arns []string
		id   string
		want bool
	}{
		{"no ARN covers nothing", nil, model, false},
		{"a model's ARN covers the model", []string{"arn:aws:bedrock:eu-west-1::foundation-model/" + model}, model, true},
		{"one of several does", []string{account + "inference-profile/" + profile, "arn:aws:bedrock:eu-west-1::foundation-model/" + model}, model, true},
		{"none of several does", []string{account + "inference-profile/" + profile, "arn:aws:bedrock:eu-west-1::foundation-model/x"}, model, false},
		{"in China, too", []string{"arn:aws-cn:bedrock:eu-west-1::foundation-model/" + model}, model, true},
		{"another region's doesn't", []string{"arn:aws:bedrock:us-east-1::foundation-model/" + model}, model, false},
		{"that of every region does", []string{"arn:aws:bedrock:*::foundation-model/" + model}, model, true},
		{"those of some regions do", []string{"arn:aws:bedrock:eu-*::foundation-model/" + model}, model, true},
		{"another service's doesn't", []string{"arn:aws:sagemaker:eu-west-1::foundation-model/" + model}, model, false},
		{"a model belongs to no account", []string{account + "foundation-model/" + model}, model, false},
		{"every model", []string{"arn:aws:bedrock:eu-west-1::foundation-model/*"}, model, true},
		{"every model of a provider", []string{"arn:aws:bedrock:eu-west-1::foundation-model/anthropic.*"}, model, true},
		{"every model of another", []string{"arn:aws:bedrock:eu-west-1::foundation-model/amazon.*"}, model, false},
		{"? is one character", []string{"arn:aws:bedrock:eu-west-?::foundation-model/anthropic.claude-3-?-haiku-20241022-v1:0"}, model, true},
		{"? isn't none", []string{"arn:aws:bedrock:eu-west-1?::foundation-model/" + model}, model, false},
		{"a dot is a dot", []string{"arn:aws:bedrock:eu-west-1::foundation-model/anthropic.claude-3.5-haiku-20241022-v1:0"}, model, false},
		{"the beginning isn't enough", []string{"arn:aws:bedrock:eu-west-1::foundation-model/anthropic.claude-3-5-haiku-20241022-v1"}, model, false},
		{"nor is the end", []string{"arn:aws:bedrock:eu-west-1::x/foundation-model/" + model}, model, false},
		{"capitals count", []string{"arn:aws:bedrock:eu-west-1::foundation-model/Anthropic.*"}, model, false},
		{"a profile's ARN covers the profile", []string{account + "inference-profile/" + profile}, profile, true},
		{"an application's profile by its id", []string{custom}, "a1b2c3d4e5f6", true},
		{"every profile of an account", []string{account + "inference-profile/*"}, profile, true},
		{"and maybe a model's id is one", []string{account + "inference-profile/*"}, model, true},
		{"of whichever account", []string{"arn:aws:bedrock:*:*:inference-profile/*"}, profile, true},
		{"another region's profile", []string{"arn:aws:bedrock:eu-west-2:123456789012:inference-profile/" + profile}, profile, false},
		{"a profile belongs to an account", []string{"arn:aws:bedrock:eu-west-1::inference-profile/" + profile}, profile, false},
		{"the model behind a profile isn't the profile", []string{"arn:aws:bedrock:*::foundation-model/amazon.nova-lite-v1:0"}, profile, false},
		{"an agent's ARN is looked up as it is", []string{custom}, custom, true},
		{"with its account", []string{"arn:aws:bedrock:eu-west-1:210987654321:application-inference-profile/*"}, custom, false},
		{"in its own region", []string{"arn:aws:bedrock:us-east-1:123456789012:provisioned-model/*"}, "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/x", true},
		{"and with its partition", []string{"arn:aws-cn:bedrock:eu-west-1:123456789012:*"}, custom, false},
		{"all of Bedrock", []string{"arn:aws:bedrock:*:*:*"}, custom, true},
		{"an ARN without its end", []string{"arn:aws:bedrock"}, model, true},
		{"an ARN without its end, elsewhere", []string{"arn:aws:bedrock:us-east-1"}, model, false},
		{"everything there is", []string{"*"}, model, true},
		{"a wildcard stays in its part", []string{"arn:aws:*model/" + model}, model, false},
		{"nothing is no ARN", []string{""}, model, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if got := bedrock.Covered(row.arns, "eu-west-1", row.id); got != row.want {
				t.Errorf("%q and %s: %t, want %t", row.arns, row.id, got, row.want)
			}
		})
	}
}
