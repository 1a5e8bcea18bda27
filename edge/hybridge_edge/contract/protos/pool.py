"""One descriptor pool for our stubs.

tritonclient registers the same symbols in protobuf's default pool, and both must live in one process.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
