"""An EC2 that is as strict as the real one, over HTTP, for tests.

moto's server answers for everything that is not EC2 (S3, Systems Manager's parameters, Secrets Manager, IAM, STS) and
for EC2's network and images. Volumes, instances, snapshots and tags are modelled here, because moto accepts almost
anything of them: no idempotency, no bounds, no states that take time.

The sources that the comments cite:

``API:X``     https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_X.html
``errors``    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
``idem``      https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html
``throttle``  https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
``ec2ug/X``   https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/X.html
``ebsug/X``   https://docs.aws.amazon.com/ebs/latest/userguide/X.html
``csi``       https://github.com/kubernetes-sigs/aws-ebs-csi-driver, pkg/cloud/cloud.go

[U] marks what no source says for certain; there the double does what is harder for a client.
"""
