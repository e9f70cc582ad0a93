from grokutils.experiments import main

main()
