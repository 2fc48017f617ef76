from ninestory.cli.app import main

main()
