"""Expands a SAM template the way CloudFormation's Serverless transform does.

Reads template.yaml on standard input, writes the expanded template as JSON on
standard output. Name=value arguments are parameters. Needs the Python package
aws-sam-translator; asks nothing of AWS or of the network.
"""

import json
import logging
import os
import sys

# Before the import: samtranslator makes a boto3 session, for its region alone.
os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

import yaml
from samtranslator.parser.parser import Parser
from samtranslator.translator.transform import transform


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms, as SAM CLI reads it."""


def intrinsic(loader, tag, node):
    name = tag if tag in ("Ref", "Condition") else "Fn::" + tag
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if tag == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {name: value}


Loader.add_multi_constructor("!", intrinsic)


class NoManagedPolicies:
    """Stands for the list of AWS's managed policies: the template names none."""

    def load(self):
        return {}


def main():
    logging.disable(logging.CRITICAL)  # of feature toggles that only AWS knows
    # Through JSON, so that no two places share one object: SAM edits in place.
    template = json.loads(json.dumps(yaml.load(sys.stdin, Loader)))
    parameters = {n: p["Default"] for n, p in template.get("Parameters", {}).items()}
    parameters.update(arg.split("=", 1) for arg in sys.argv[1:])
    parameters["AWS::Region"] = "us-east-1"
    # The translator takes packaged code alone.
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://bucket/key"
    template.get("Globals", {}).get("Function", {}).pop("CodeUri", None)
    expanded = transform(template, parameters, NoManagedPolicies())
    json.dump(expanded, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
