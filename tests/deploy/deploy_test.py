"""What is in deploy/, see run.sh.

    deploy_test.py [test...]
"""

import sys

import counted_tests
from containers_test import Compose, ContainerFiles
from documents_test import Documents
from first_steps_test import FirstSteps
from packages_test import Packages
from prometheus_test import AgainstARealScrape, Alerts
from recorded_test import Recorded
from units_test import OnAMachine, Units

if __name__ == "__main__":
    tests = [Packages, Units, OnAMachine, ContainerFiles, Compose, Alerts, Recorded, AgainstARealScrape, Documents, FirstSteps]
    sys.exit(counted_tests.run(*tests))
