"""What must survive, each case provoked in real processes; :mod:`tests.faults.oracle` judges.

``pytest -m faults`` runs the short cases, which are in every run of the tests; ``pytest -m faults
-n 0 --profile=long`` runs all of them, in hours on a small machine, and prints what it counted;
``--faults-scale=0.1`` runs a tenth.

The cases by their number, each with the test that provokes it; those outside this folder have
no process to kill, and are proved where the code is tested.

 1  a receiver killed at random               test_kills
 2  killed between commit and answer          test_failpoints (group_commit.after_commit)
 3  killed between commit and wake            test_failpoints (wake.before_send)
 4  power cut                                 test_disk, receiver/test_database
 5  a flush fails                             test_disk, receiver/test_intake
 6  a flush takes 8 s                         test_disk
 7  disk full                                 test_disk; a full spool: receiver/test_spool
 8  broker absent at the start                test_broker
 9  broker frozen                             test_broker
10  broker restarted a hundred times          test_broker
11  broker emptied                            test_broker
12  broker connection half open               test_broker
13  broker out of memory                      test_broker
14  worker, sender or a pool process killed   test_failpoints, test_kills
15  killed between the broker's pop and note  test_failpoints (broker.after_pop)
16  poisonous event                           test_poison
17  frozen past its lease, then thawed        test_signals, worker/test_leases
18  SIGTERM under load                        test_signals
19  one message ten times at once             worker/test_handling
20  PostgreSQL crashes, sessions are killed   test_database
21  database frozen                           receiver/web/test_outage
22  ten minutes without database              test_database; without a spool: web/test_outage
23  SQLite locked by another writer           receiver/test_database, web/test_refusals
24  the clock jumps                           worker/test_leases, worker/test_sweep
25  a confirmation hangs or fails             worker/test_confirmations
26  a confirmation is refused                 worker/test_confirmations
27  provider's 429                            worker/test_confirmations, worker/test_budgets
28  Slack's 429                               worker/test_deliveries
29  Slack's refusals                          worker/test_deliveries, destinations/test_slack
30  an answer that is lost                    worker/test_deliveries, test_email_answers
31  one of three recipients refused           destinations/test_email_answers
32  a hundred equal events at once            receiver/web/test_webhooks
33  a known id with another body              worker/test_handling, receiver/test_spool
34  every order of an order's events          worker/test_orders, worker/test_order_machine
47  memory after a million events             test_soak
"""
