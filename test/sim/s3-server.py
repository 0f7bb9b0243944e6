"""An S3 server (moto) that checks signatures, with one user and one bucket; ends when its stdin does.

Prints one line of JSON: endpoint, access_key_id, secret_access_key, bucket.
"""

import json
import os
import sys

# So many first calls are not checked: those that make the user who signs all others.
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "3"

import boto3  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
common = {"endpoint_url": f"http://{host}:{port}", "region_name": "us-east-1"}

iam = boto3.client("iam", aws_access_key_id="nobody", aws_secret_access_key="nobody", **common)
iam.create_user(UserName="lab")
key = iam.create_access_key(UserName="lab")["AccessKey"]
everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
iam.put_user_policy(UserName="lab", PolicyName="all", PolicyDocument=json.dumps(everything))

credentials = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
boto3.client("s3", **credentials, **common).create_bucket(Bucket="images")
print(
    json.dumps(
        {
            "endpoint": common["endpoint_url"],
            "access_key_id": key["AccessKeyId"],
            "secret_access_key": key["SecretAccessKey"],
            "bucket": "images",
        }
    ),
    flush=True,
)
sys.stdin.read()
server.stop()
